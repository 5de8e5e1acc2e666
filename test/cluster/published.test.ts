import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { PublishedStateWriter } from '../../daemon/cluster/published.ts';
import { parsePodUid } from '../../daemon/mesh/ids.ts';

const UID = parsePodUid('12345678-9abc-4def-8123-456789abcdef') ?? assert.fail();

describe('the published state', () => {
  let folder: string;
  beforeEach(() => (folder = mkdtempSync(path.join(tmpdir(), 'culvert-published-'))));
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  it('that could not be written is written when it can, unless there is a newer one', async () => {
    const status = path.join(folder, 'status');
    writeFileSync(status, 'in the way');
    const writer = new PublishedStateWriter(folder, 'node-1');
    await assert.rejects(writer.publish([{ uid: UID, state: 'enrolled', sinceMs: 0 }]), /node-1.yaml/);
    await assert.rejects(writer.retry(), /node-1.yaml/);
    rmSync(status);
    await writer.retry();
    const file = path.join(status, 'node-1.yaml');
    assert.match(readFileSync(file, 'utf8'), /state: enrolled/);
    rmSync(file);
    await writer.retry(); // there is nothing to make good
    assert.throws(() => readFileSync(file), /ENOENT/);
  });
});
