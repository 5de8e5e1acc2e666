/** The prebuilt BPF object of this machine's architecture, verified before anything of it reaches the kernel. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { MeshError } from '../errors.ts';

/** native/bpf/prebuilt of this checkout or image. */
export const OBJECT_DIRECTORY = path.join(import.meta.dirname, '../../native/bpf/prebuilt');

const ARCHITECTURES: Readonly<Record<string, string>> = { x64: 'amd64', arm64: 'arm64' };

/**
 * The object's bytes. @param arch as `process.arch` has it.
 * @throws MeshError BPF_OBJECT_CORRUPT when it is missing, or not what SHA256SUMS says.
 */
export function readObject(directory: string = OBJECT_DIRECTORY, arch: string = process.arch): Buffer {
  const folder = ARCHITECTURES[arch];
  if (folder === undefined)
    throw new MeshError(
      'BPF_OBJECT_CORRUPT',
      `there is no prebuilt BPF object for ${arch}; amd64 and arm64 have one`,
    );
  const name = `${folder}/culvert.bpf.o`;
  const [bytes, sums] = readBoth(directory, name);
  const expected = sums
    .split('\n')
    .map((line) => line.split(/\s+/, 2))
    .find(([, file]) => file === name)?.[0];
  const actual = createHash('sha256').update(bytes).digest('hex');
  if (expected !== actual)
    throw new MeshError(
      'BPF_OBJECT_CORRUPT',
      `${path.join(directory, name)} has SHA-256 ${actual}, SHA256SUMS says ${expected ?? 'nothing of it'}: install it again, or rebuild it with make bpf`,
    );
  return bytes;
}

function readBoth(directory: string, name: string): [Buffer, string] {
  try {
    return [
      readFileSync(path.join(directory, name)),
      readFileSync(path.join(directory, 'SHA256SUMS'), 'utf8'),
    ];
  } catch (cause) {
    throw new MeshError(
      'BPF_OBJECT_CORRUPT',
      `the prebuilt BPF object or its SHA256SUMS is missing in ${directory}`,
      {
        cause,
      },
    );
  }
}
