import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { describe, it } from 'node:test';
import { createLog, wireText } from '../../daemon/observe/log.ts';
import type { Log } from '../../daemon/observe/log.ts';

const PEM = '-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMsecret\n-----END PRIVATE KEY-----\n';

function logged(write: (log: Log) => void): string {
  const lines: string[] = [];
  write(createLog({ thread: 'main', level: 'debug', destination: { write: (line) => lines.push(line) } }));
  return lines.join('');
}

describe('log', () => {
  it('writes one JSON object a line, with level, time and thread', () => {
    const line: unknown = JSON.parse(logged((log) => log.info({ pod: 'shop/web' }, 'pod enrolled')));
    assert.partialDeepStrictEqual(line, {
      level: 'info',
      thread: 'main',
      pod: 'shop/web',
      msg: 'pod enrolled',
    });
  });

  it('never writes a key, wherever it is', () => {
    for (const fields of [
      { keyPem: PEM },
      { certificate: { id: 'a', keyPem: PEM } },
      { a: { b: { keyPem: 'secret' } } },
      { list: [{ headers: { Authorization: 'Bearer "secret' } }] },
      { token: 'secret' },
      { oddly: { named: { deep: { inside: [PEM] } } } },
      { err: new Error(`could not parse ${PEM}`) },
    ])
      assert.doesNotMatch(
        logged((log) => log.warn(fields, `tried ${PEM}`)),
        /secret/,
      );
  });

  it('writes lines whole from several threads at once', () => {
    const program = `
      import { Worker, isMainThread, threadId } from 'node:worker_threads';
      import { createLog } from '${new URL('../../daemon/observe/log.ts', import.meta.url).href}';
      const log = createLog({ thread: String(threadId), level: 'info' });
      for (let i = 0; i < 200; i++) log.info({ i, pad: 'x'.repeat(300) }, 'line');
      if (isMainThread) for (let w = 0; w < 3; w++) new Worker(new URL(import.meta.url));`;
    const file = `/tmp/culvert-log-${crypto.randomUUID()}.mjs`;
    const ran = spawnSync(
      '/bin/sh',
      ['-c', `cat > ${file} && "$0" ${file}; rm -f ${file}`, process.execPath],
      {
        input: program,
        encoding: 'utf8',
      },
    );
    const lines = ran.stdout.trimEnd().split('\n');
    assert.equal(lines.length, 800);
    for (const line of lines) assert.equal(typeof JSON.parse(line), 'object');
  });
});

describe('text from the wire', () => {
  it('can not forge a line, hide text or move a cursor', () => {
    assert.equal(
      wireText('a\nb\u001b[31m\u202e\u2028\ud800'),
      'a\\u{a}b\\u{1b}[31m\\u{202e}\\u{2028}\\u{d800}',
    );
    assert.equal(wireText('plain "text" é 😀'), 'plain "text" é 😀');
  });

  it('is capped, and says how long it was', () => {
    assert.equal(wireText('abcdef', 3), 'abc… (6 characters)');
    assert.equal(wireText('abc', 3), 'abc');
  });
});
