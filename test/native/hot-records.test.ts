import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import type { TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { loadHot } from '../../native/hot/index.ts';
import { namespace, run } from './hot-namespaces.ts';

const hot = loadHot();

/** A program of ours in C, compiled for this test. */
function compiled(t: TestContext, source: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'hot-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const program = join(folder, 'program');
  run('cc', '-Wall', '-Werror', '-o', program, fileURLToPath(new URL(source, import.meta.url)));
  return program;
}

/** `struct culvert_endpoint` in hex, written out by hand. */
function endpoint(ip: string, port: number, family: number, netns: string): string {
  const bytes = Buffer.alloc(32);
  bytes.write(ip, 'hex');
  bytes.writeUInt16LE(port, 16);
  bytes.writeUInt8(family, 18);
  bytes.writeBigUInt64LE(BigInt(netns), 24);
  return bytes.toString('hex');
}

void describe("records on sockets, in the kernel's own maps", () => {
  void it('reads the original destination and writes the client, byte for byte, per thread', (t) => {
    const pod = namespace(t, hot);
    const maps = compiled(t, './hot-maps.c');
    const child = fileURLToPath(new URL('./hot-records-child.ts', import.meta.url));
    const seen: unknown = JSON.parse(run(maps, 'run', process.execPath, child, pod.path, maps));
    const cookie = String(hot.netnsCookie(pod.fd));
    assert.deepEqual(seen, {
      seeded: {
        port: 8443,
        bytes: '20010db8000000000000000000000007' + '06050000',
        read: { ip: '2001:db8::7', port: 8443 },
      },
      cookie,
      v4: {
        raw: endpoint('00000000000000000000ffffc0000209', 40_001, 2, '0'),
        read: { ip: '192.0.2.9', port: 40_001 },
      },
      v6: {
        raw: endpoint('20010db8000000000000000000000009', 65_535, 10, '0'),
        read: { ip: '2001:db8::9', port: 65_535 },
      },
      untagged: 0,
      otherThread: 0,
    });
  });
});
