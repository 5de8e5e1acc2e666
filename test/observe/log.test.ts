import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { describe, it } from 'node:test';
import { z } from 'zod';
import { createLog, wireText, writeLines } from '../../daemon/observe/log.ts';
import type { Log } from '../../daemon/observe/log.ts';

const PEM = '-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMsecret\n-----END PRIVATE KEY-----\n';

function logged(write: (log: Log) => void): string {
  const lines: string[] = [];
  write(createLog({ thread: 'main', level: 'debug', destination: { write: (line) => lines.push(line) } }));
  return lines.join('');
}

/** The lines, parsed, without their time, which each must have. */
function untimed(text: string): Record<string, unknown>[] {
  return text
    .trimEnd()
    .split('\n')
    .map((line) => {
      const { time, ...rest } = z.record(z.string(), z.unknown()).parse(JSON.parse(line));
      assert.match(String(time), /^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
      return rest;
    });
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

  it('writes many lines as it would write each, in pieces that a pipe takes whole', () => {
    const writes: string[] = [];
    const log = createLog({
      thread: 'a"b',
      level: 'info',
      destination: { write: (text) => writes.push(text) },
    });
    const fields = { 'dst.addr': '10.0.0.1:80', bytes: 3, odd: 'ü"\n\u2028', gone: undefined };
    const lines = Array.from(
      { length: 100 },
      (_, n) => ({ level: 'info', fields: { ...fields, n } }) as const,
    );
    writeLines(log, [{ level: 'debug', fields }, { level: 'warn', fields: {} }, ...lines], 'done');
    assert.ok(writes.length > 1 && writes.every((text) => Buffer.byteLength(text) <= 4_096));
    assert.ok(writes.every((text) => text.endsWith('\n')));
    const [first, ...others] = untimed(writes.join(''));
    assert.deepEqual(first, { level: 'warn', thread: 'a"b', msg: 'done' });
    assert.equal(others.length, 100);
    writes.length = 0;
    log.info({ ...fields, n: 99 }, 'done');
    assert.deepEqual(others.at(-1), untimed(writes.join('')).at(-1));
  });

  it('never writes a key in one of many lines', () => {
    const writes: string[] = [];
    const log = createLog({
      thread: 'main',
      level: 'info',
      destination: { write: (text) => writes.push(text) },
    });
    writeLines(log, [{ level: 'info', fields: { keyPem: 'secret', detail: `could not parse ${PEM}` } }], 'x');
    assert.equal(untimed(writes.join('')).length, 1);
    assert.doesNotMatch(writes.join(''), /secret/);
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
