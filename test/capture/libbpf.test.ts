/** libbpf in a thread of its own, as the enrolment thread has it. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { run } from '../support/run.ts';

describe('libbpf in a thread', () => {
  it('lets the process end in order when its thread has ended', async () => {
    const libbpf = new URL('../../daemon/capture/libbpf.ts', import.meta.url).href;
    const inThread = `import(${JSON.stringify(libbpf)}).then(({ libbpfVersion }) => libbpfVersion())`;
    const program = `
      const { Worker } = require('node:worker_threads');
      const thread = new Worker(${JSON.stringify(inThread)}, { eval: true });
      thread.on('exit', (code) => console.log('thread ended', code));`;
    const ended = await run([process.execPath, '-e', program]);
    assert.equal(ended.signal, undefined, ended.stderr);
    assert.deepEqual([ended.code, ended.stdout.trim()], [0, 'thread ended 0'], ended.stderr);
  });
});
