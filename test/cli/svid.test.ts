import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { describe, it } from 'node:test';
import { issue, makeCa, makeIntermediate, selfSigned } from '../support/pki.ts';
import type { Issued } from '../support/pki.ts';
import { must } from '../support/run.ts';
import { tempDir } from '../support/tmp.ts';
import { culvert } from './terminal.ts';
import type { Ran } from './terminal.ts';

const WEB = 'spiffe://cluster.local/ns/shop/sa/web';
const HOUR = 3_600_000;
const root = makeCa();
const middle = makeIntermediate(root);
const at = (ms: number): string => new Date(ms).toISOString();

/** `culvert svid verify` of a chain on standard input against roots in a file. */
async function verify(chain: string, roots: string, ...flags: readonly string[]): Promise<Ran> {
  await using folder = await tempDir('svid');
  const file = join(folder.path, 'roots.pem');
  await writeFile(file, roots);
  return await culvert(['svid', 'verify', '--roots', file, ...flags, '-'], {
    now: () => Date.now(),
    stdin: () => Readable.from([Buffer.from(chain)]),
  });
}

function assertTaken({ code, out, err }: Ran): void {
  assert.deepEqual([code, JSON.parse(out), err], [0, { ok: true, spiffeId: WEB, reason: null }, '']);
}

function assertRefused({ code, out }: Ran, reason: RegExp): void {
  const answer: unknown = JSON.parse(out);
  assert.ok(typeof answer === 'object' && answer !== null && 'reason' in answer);
  assert.deepEqual([code, answer], [1, { ok: false, spiffeId: null, reason: answer.reason }]);
  assert.match(String(answer.reason), reason);
}

describe('culvert svid verify', () => {
  it('takes a certificate, straight, through intermediates in any order, and of any of several roots', async () => {
    assertTaken(await verify(issue(root, WEB).chainPem, root.certPem));
    assertTaken(await verify(issue(middle, WEB).chainPem, root.certPem));
    const deep = makeIntermediate(middle);
    const { chainPem } = issue(deep, WEB);
    const [leaf = '', one = '', two = ''] = chainPem.split(/(?<=-----END CERTIFICATE-----\n)/);
    assertTaken(await verify(leaf + two + one, makeCa().certPem + root.certPem));
    assertTaken(
      await verify(`a comment\n${chainPem}`, root.certPem, '--json', '--trust-domain', 'cluster.local'),
    );
  });

  it('judges at the time it is told: RFC 3339 in any zone, or seconds', async () => {
    const { chainPem } = issue(root, WEB);
    const now = Date.now();
    assertTaken(await verify(chainPem, root.certPem, '--at', at(now)));
    assertTaken(await verify(chainPem, root.certPem, '--at', String(Math.floor(now / 1_000))));
    const zoned = `${at(now + 2 * HOUR).slice(0, 19)}+02:00`;
    assertTaken(await verify(chainPem, root.certPem, '--at', zoned));
    assertRefused(
      await verify(chainPem, root.certPem, '--at', at(now + 25 * HOUR)),
      /INVALID: it expired at/,
    );
    assertRefused(await verify(chainPem, root.certPem, '--at', at(now - 2 * HOUR)), /it is not valid before/);
    assertRefused(
      await verify(
        issue(root, WEB, { notAfter: new Date(now + 900 * HOUR) }).chainPem,
        root.certPem,
        '--at',
        at(now + 300 * HOUR),
      ),
      /its issuer CN=.* has expired/,
    );
  });

  const refused: readonly (readonly [string, () => Issued, RegExp])[] = [
    [
      'another trust domain',
      () => issue(root, 'spiffe://other/ns/shop/sa/web'),
      /^PEER_TRUST_DOMAIN: .*not of/,
    ],
    ['two URIs', () => issue(root, [WEB, WEB]), /more than one subject alternative name/],
    ['a DNS name beside', () => issue(root, WEB, { dns: ['web'] }), /more than one subject alternative name/],
    ['no name', () => issue(root, []), /no subject alternative name/],
    ['another form of ID', () => issue(root, 'spiffe://cluster.local/web'), /not of the form spiffe:/],
    ['a CA as leaf', () => issue(root, WEB, { isCa: true, keyUsage: 0x86 }), /CA certificate, not a leaf/],
    ['a leaf that may sign', () => issue(root, WEB, { keyUsage: 0x84 }), /allows signing certificates/],
    ['servers only', () => issue(root, WEB, { usages: ['serverAuth'] }), /lacks serverAuth or clientAuth/],
    ['nobody but itself', () => selfSigned(WEB), /does not chain to any of the roots/],
    ['another root', () => issue(makeCa(), WEB), /does not chain to any of the roots/],
  ];
  for (const [name, make, reason] of refused)
    it(`refuses ${name}`, async () => assertRefused(await verify(make().chainPem, root.certPem), reason));

  it('refuses what is no certificate, among the roots too, and does not call that wrong usage', async () => {
    const { chainPem } = issue(middle, WEB);
    for (const [chain, roots, reason] of [
      ['', root.certPem, /there is no certificate/],
      ['garbage', root.certPem, /there is no certificate/],
      [root.keyPem, root.certPem, /there is no certificate/],
      ['-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n', root.certPem, /can not be used/],
      [chainPem.slice(0, -40), root.certPem, /a block CERTIFICATE has no end/],
      [chainPem, '', /does not chain to any of the roots/],
      [chainPem, 'garbage', /does not chain to any of the roots/],
      [chainPem, root.certPem.slice(0, -40), /the roots: a block CERTIFICATE has no end/],
    ] as const)
      assertRefused(await verify(chain, roots), reason);
  });

  it('judges certificates that openssl made, also with a chain in a file', async () => {
    await using folder = await tempDir('svid');
    const openssl = (...args: readonly string[]): Promise<string> =>
      must(['openssl', ...args], { cwd: folder.path });
    await openssl(
      'req',
      '-x509',
      '-newkey',
      'rsa:2048',
      '-nodes',
      '-keyout',
      'r.key',
      '-out',
      'r.pem',
      '-days',
      '2',
      '-subj',
      '/CN=r',
    );
    const names = `subjectAltName=critical,URI:${WEB}\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=critical,CA:FALSE\n`;
    await writeFile(join(folder.path, 'names'), names);
    const leafOf = async (digest: string, key: readonly string[]): Promise<Ran> => {
      await openssl('req', '-new', ...key, '-nodes', '-keyout', 'l.key', '-out', 'l.csr', '-subj', '/CN=l');
      await openssl(
        'x509',
        '-req',
        '-in',
        'l.csr',
        '-CA',
        'r.pem',
        '-CAkey',
        'r.key',
        '-CAcreateserial',
        '-days',
        '1',
        `-${digest}`,
        '-extfile',
        'names',
        '-out',
        'l.pem',
      );
      const args = [
        'svid',
        'verify',
        '--trust-domain',
        'cluster.local',
        '--roots',
        join(folder.path, 'r.pem'),
      ];
      return culvert([...args, '--at', at(Date.now() + 60_000), join(folder.path, 'l.pem')]);
    };
    const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256'];
    assertTaken(await leafOf('sha256', curve));
    assertTaken(await leafOf('sha384', ['-newkey', 'rsa:2048']));
    assertRefused(await leafOf('sha1', curve), /signed with an algorithm that is too weak/);
    assertRefused(await leafOf('sha256', ['-newkey', 'rsa:1024']), /RSA key of 1024 bits/);
  });

  it('ends with 2 and says what is wrong when it is used wrongly', async () => {
    const { chainPem } = issue(root, WEB);
    for (const [flags, says] of [
      [['--at', 'yesterday'], /--at: "yesterday" is neither a time/],
      [['--at', '2026-11-21T18:00:00'], /--at: .* is neither a time/],
      [['--trust-domain', 'a/b'], /--trust-domain: "a\/b" is not a trust domain/],
      [['--roots', '/nowhere'], /--roots: ENOENT.*\/nowhere/],
    ] as const) {
      const { code, out, err } = await verify(chainPem, root.certPem, ...flags);
      assert.deepEqual([code, out], [2, '']);
      assert.match(err, says);
    }
    for (const args of [['svid'], ['svid', 'verify', 'x.pem'], ['svid', 'verify', '--roots', 'x']])
      assert.equal((await culvert(args)).code, 2);
  });
});
