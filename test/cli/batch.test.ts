import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { describe, it } from 'node:test';
import { z } from 'zod';
import { tempDir } from '../support/tmp.ts';
import { culvert } from './terminal.ts';

const answerSchema = z.strictObject({
  name: z.string().nullable(),
  verdict: z.string().optional(),
  by: z.unknown().optional(),
  why: z.string().optional(),
  error: z.string().optional(),
});
type Answer = z.infer<typeof answerSchema>;

interface Judged {
  readonly code: number;
  readonly answers: readonly Answer[];
  readonly err: string;
}

async function judge(...pieces: readonly (string | Uint8Array)[]): Promise<Judged> {
  const stdin = (): AsyncIterable<Uint8Array> => Readable.from(pieces.map((piece) => Buffer.from(piece)));
  const { code, out, err } = await culvert(['why', '--batch', '-'], { stdin });
  return { code, answers: parsed(out), err };
}

function parsed(out: string): readonly Answer[] {
  assert.ok(out === '' || out.endsWith('\n'));
  return out
    .split('\n')
    .slice(0, -1)
    .map((line) => answerSchema.parse(JSON.parse(line)));
}

async function one(given: object): Promise<Answer> {
  const { code, answers } = await judge(JSON.stringify(given));
  assert.equal(code, 0);
  const [answer, ...more] = answers;
  assert.ok(answer !== undefined && more.length === 0);
  return answer;
}

const object = (spec: unknown, metadata: object = {}): object => ({
  metadata: { name: 'p', namespace: 'shop', ...metadata },
  spec,
});
const STRICT = object({ mtls: { mode: 'STRICT' } }, { name: 'd' });
const FRONT = 'spiffe://cluster.local/ns/shop/sa/front';

describe('culvert why --batch', () => {
  it('answers a full case with all four fields, and the rule that decided', async () => {
    const spec = {
      rules: [{ from: [{ source: { namespaces: ['x'] } }] }, { to: [{ operation: { paths: ['/a/*'] } }] }],
    };
    const answer = await one({
      name: 'full',
      policies: [object(spec)],
      peerAuthentications: [STRICT],
      mesh: {
        rootNamespace: 'root',
        trustDomain: 'td',
        trustDomainAliases: ['a'],
        pathNormalization: 'MERGE_SLASHES',
      },
      request: {
        srcPrincipal: 'spiffe://td/ns/shop/sa/front',
        srcNamespace: 'shop',
        srcIp: '10.0.0.1',
        dstIp: '10.0.0.2',
        dstPort: 80,
        dstNamespace: 'shop',
        dstLabels: { app: 'web' },
        sni: 'web',
        http: { method: 'GET', path: '//a//b?c', host: 'web', headers: { 'X-A': ['b', 'c'] } },
      },
    });
    const by = { kind: 'AuthorizationPolicy', namespace: 'shop', name: 'p', rule: 1 };
    assert.deepEqual(answer, { name: 'full', verdict: 'allow', by, why: 'allowed by rule 1 of shop/p' });
  });

  it('has a null for what is not there: no deciding object, or one without rules', async () => {
    const open = await one({ name: 'open', request: { dstPort: 80 } });
    assert.deepEqual(open, { name: 'open', verdict: 'allow', by: null, why: 'no ALLOW policy applies' });
    const strict = await one({
      name: 's',
      peerAuthentications: [STRICT],
      request: { srcPrincipal: null, dstPort: 80, dstNamespace: 'shop' },
    });
    assert.deepEqual(strict.by, { kind: 'PeerAuthentication', namespace: 'shop', name: 'd', rule: null });
  });

  it('takes every optional field absent, null, or partly there, and fields that it does not know', async () => {
    const policies = [object({ rules: [{ to: [{ operation: { methods: ['GET'] } }] }] })];
    const request = { srcPrincipal: FRONT, dstPort: 80, dstNamespace: 'shop' };
    const http = { method: 'GET', path: '/' };
    for (const [given, verdict] of [
      [
        { policies: null, peerAuthentications: null, mesh: null, request: { dstPort: 1, http: null } },
        'allow',
      ],
      [{ policies, mesh: {}, request: { ...request, http } }, 'allow'],
      [
        { policies, mesh: { trustDomain: 'td' }, request: { ...request, http: { ...http, host: null } } },
        'allow',
      ],
      [{ policies, mesh: { pathNormalization: 'DEFAULT' }, request: { ...request, http } }, 'allow'],
      [{ policies, mesh: { pathNormalization: 'none' }, request: { ...request, http } }, 'allow'],
      // No HTTP: bytes that match no ALLOW with HTTP content.
      [{ policies, request }, 'deny'],
      [{ policies, request: { ...request, http: { ...http, version: 2 }, extra: 1 }, comment: 'x' }, 'allow'],
      [
        { policies, request: { ...request, srcIp: null, dstIp: '', sni: null, dstLabels: null, http } },
        'allow',
      ],
      [{ policies, request: { ...request, http: { headers: { ':method': 'GET' } } } }, 'allow'],
    ] as const)
      assert.equal((await one({ name: 'x', ...given })).verdict, verdict, JSON.stringify(given));
  });

  it('judges each line from an empty store', async () => {
    const deny = JSON.stringify({
      name: 'a',
      policies: [object({ action: 'DENY', rules: [{}] })],
      peerAuthentications: [STRICT],
      request: { dstPort: 1, dstNamespace: 'shop' },
    });
    const bare = JSON.stringify({ name: 'b', request: { dstPort: 1, dstNamespace: 'shop' } });
    const { answers } = await judge([deny, bare, deny, bare].join('\n'));
    assert.deepEqual(
      answers.map(({ verdict }) => verdict),
      ['deny', 'allow', 'deny', 'allow'],
    );
  });

  it('keeps objects apart that have one name, and counts those that have none', async () => {
    const request = { dstPort: 1, dstNamespace: 'shop' };
    const deny = { action: 'DENY', rules: [{}] };
    const both = await one({ name: 'x', policies: [object(deny), object({ rules: [{}] })], request });
    assert.equal(both.verdict, 'deny');
    for (const metadata of [
      { namespace: 'shop' },
      { namespace: 'shop', name: 'n', annotations: { a: true } },
    ]) {
      const nameless = await one({ name: 'x', policies: [{ metadata, spec: deny }], request });
      assert.equal(nameless.verdict, 'deny');
    }
  });

  it('answers a line that is no case with an error, goes on, and ends with 1', async () => {
    const good = (name: string): string => JSON.stringify({ name, request: { dstPort: 1 } });
    const lines = [
      good('a'),
      '{"name": "cut"',
      good('b'),
      '{"name": "port", "request": {"dstPort": 70000}}',
      '{"name": "ip", "request": {"dstPort": 1, "srcIp": "10.0.0"}}',
      '{"name": "mode", "mesh": {"pathNormalization": "SOME"}, "request": {"dstPort": 1}}',
      '[]',
      '{"request": {"dstPort": 1}}',
      good('c'),
    ];
    const { code, answers, err } = await judge(lines.join('\n'));
    assert.equal(code, 1);
    assert.deepEqual(
      answers.map(({ name, verdict }) => [name, verdict]),
      [
        ['a', 'allow'],
        [null, undefined],
        ['b', 'allow'],
        ['port', undefined],
        ['ip', undefined],
        ['mode', undefined],
        [null, undefined],
        [null, undefined],
        ['c', 'allow'],
      ],
    );
    assert.match(answers[1]?.error ?? '', /^line 2: is no JSON/);
    assert.match(answers[3]?.error ?? '', /^line 4: request.dstPort/);
    assert.match(answers[4]?.error ?? '', /request.srcIp: is no IP address/);
    assert.match(answers[5]?.error ?? '', /mesh.pathNormalization: must be DEFAULT or one of NONE, BASE/);
    assert.match(err, /^culvert why: standard input:2: is no JSON/);
  });

  it('reads lines wherever they are cut: in a character, at CRLF, behind a byte order mark, without a last newline', async () => {
    const bytes = Buffer.from(
      '\ufeff{"name":"ä","request":{"dstPort":1}}\r\n\r\n{"name":"z","request":{"dstPort":1}}',
    );
    const { code, answers } = await judge(...Array.from(bytes, (byte) => Buffer.of(byte)));
    assert.equal(code, 0);
    assert.deepEqual(
      answers.map(({ name }) => name),
      ['ä', 'z'],
    );
    const bad = await judge(Buffer.of(0xff, 0x0a), '{"name":"z","request":{"dstPort":1}}\n');
    assert.deepEqual(
      [bad.code, bad.answers[0]?.error, bad.answers[1]?.name],
      [1, 'line 1: is not UTF-8', 'z'],
    );
  });

  it('bounds a line, and what is behind a longer one is read', async () => {
    const chunk = ' '.repeat(1_048_576);
    const { code, answers } = await judge(
      ...Array<string>(17).fill(chunk),
      '\n{"name":"z","request":{"dstPort":1}}\n',
    );
    assert.equal(code, 1);
    assert.match(answers[0]?.error ?? '', /^line 1: is longer than 16777216 bytes/);
    assert.equal(answers[1]?.name, 'z');
  });

  it('reads a file of 20,000 lines, in its order', async () => {
    await using folder = await tempDir('batch');
    const file = join(folder.path, 'cases.jsonl');
    const lines = Array.from({ length: 20_000 }, (_, i) => `{"name":"${i}","request":{"dstPort":1}}`);
    await writeFile(file, lines.join('\n'));
    const { code, out } = await culvert(['why', '--batch', file]);
    assert.equal(code, 0);
    assert.deepEqual(
      parsed(out).map(({ name }) => name),
      lines.map((_, i) => String(i)),
    );
  });

  it('ends with 2 when there is no such file, and with other flags', async () => {
    const away = await culvert(['why', '--batch', '/nowhere']);
    assert.deepEqual([away.code, away.out], [2, '']);
    assert.match(away.err, /--batch: ENOENT.*'\/nowhere'/);
    const mixed = await culvert(['why', '--batch', '-', '--port', '1']);
    assert.deepEqual([mixed.code, mixed.err.includes('--batch: goes with --json only')], [2, true]);
  });
});
