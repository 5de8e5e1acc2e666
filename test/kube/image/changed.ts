/** Another image: one of ours with other files on top, as the next release would have them. */
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { must } from '../../support/run.ts';
import { tar } from '../kit/tar.ts';
import type { TarEntry } from '../kit/tar.ts';
import type { Image } from './builder.ts';

const LAYER = 'application/vnd.oci.image.layer.v1.tar';
const NAME = 'org.opencontainers.image.ref.name';

const blob = z.looseObject({ digest: z.string(), size: z.number() });
const indexSchema = z.looseObject({ manifests: z.tuple([blob]) });
const manifestSchema = z.looseObject({ config: blob, layers: z.array(blob) });
const configSchema = z.looseObject({
  rootfs: z.looseObject({ diff_ids: z.array(z.string()) }),
  history: z.array(z.unknown()).optional(),
});

export interface Changed {
  readonly reference: string;
  readonly archive: string;
  /** Of its configuration, as `Image.id`. */
  readonly id: string;
}

/** Writes the archive of `image` with one more layer, of `files`, below `dir`. */
export async function changedImage(
  image: Pick<Image, 'archive'>,
  { dir, reference, files }: { dir: string; reference: string; files: readonly TarEntry[] },
): Promise<Changed> {
  const layout = path.join(dir, 'layout');
  mkdirSync(layout, { recursive: true });
  await must(['tar', '-xf', image.archive, '-C', layout], { timeoutMs: 120_000 });
  const at = (digest: string): string => path.join(layout, 'blobs', digest.replace(':', '/'));
  const put = (content: Uint8Array): z.infer<typeof blob> => {
    const digest = `sha256:${createHash('sha256').update(content).digest('hex')}`;
    writeFileSync(at(digest), content);
    return { digest, size: content.length };
  };
  const putJson = (value: unknown): z.infer<typeof blob> => put(Buffer.from(JSON.stringify(value)));

  const index = indexSchema.parse(json(path.join(layout, 'index.json')));
  const manifest = manifestSchema.parse(json(at(index.manifests[0].digest)));
  const config = configSchema.parse(json(at(manifest.config.digest)));
  const layer = put(tar(files));
  const next = putJson({
    ...config,
    rootfs: { ...config.rootfs, diff_ids: [...config.rootfs.diff_ids, layer.digest] },
    history: [...(config.history ?? []), { created_by: 'other files on top' }],
  });
  const whole = putJson({
    ...manifest,
    config: { ...manifest.config, ...next },
    layers: [...manifest.layers, { mediaType: LAYER, ...layer }],
  });
  const entry = { ...index.manifests[0], ...whole, annotations: { [NAME]: reference } };
  writeFileSync(path.join(layout, 'index.json'), JSON.stringify({ ...index, manifests: [entry] }));
  const archive = path.join(dir, 'changed.tar');
  await must(['tar', '-cf', archive, '-C', layout, '.'], { timeoutMs: 120_000 });
  return { reference, archive, id: next.digest };
}

function json(file: string): unknown {
  return JSON.parse(readFileSync(file, 'utf8'));
}
