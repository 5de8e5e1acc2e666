import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
} from 'node:fs';
import { symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { X509Certificate } from 'node:crypto';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { systemClock } from '../../daemon/identity/clock.ts';
import { makeCsr, makeKeyPair } from '../../daemon/identity/csr.ts';
import { verifyChain } from '../../daemon/identity/chain.ts';
import { LocalCa } from '../../daemon/identity/sources/local.ts';
import { MeshError } from '../../daemon/errors.ts';
import { TRUST_DOMAIN, WEB, domain, id } from './forge.ts';
import { issue, makeCa, makeIntermediate } from '../support/pki.ts';

const never = new AbortController().signal;
const YEAR = 365 * 86_400_000;
const HOUR = 3_600_000;
let base: string;
let folder: string;
beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'culvert-ca-'));
  folder = join(base, 'ca');
});
afterEach(() => rmSync(base, { recursive: true, force: true }));

const at = (nowMs: number) => ({ nowMs: () => nowMs });
const open = (clock: { nowMs(): number } = systemClock, trustDomain = TRUST_DOMAIN) =>
  LocalCa.open({ folder, trustDomain, clock });

async function invalid(message: RegExp, opening: Promise<unknown> = open()): Promise<void> {
  await assert.rejects(opening, (error) => {
    assert.ok(error instanceof MeshError);
    assert.equal(error.code, 'CA_FOLDER_INVALID');
    assert.match(error.message, message);
    assert.match(error.message, /Fix: /);
    assert.doesNotMatch(`${error.message} ${String(error.cause)}`, /BEGIN|MII/);
    return true;
  });
}

function put(name: string, text: string, mode = 0o600): void {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  writeFileSync(join(folder, name), text, { mode });
}

describe('the local CA', () => {
  it('makes its folder, and finds the same root again', async () => {
    const first = await (await open()).roots();
    assert.equal(await (await open()).roots(), first);
    assert.equal(statSync(folder).mode & 0o777, 0o700);
    assert.equal(statSync(join(folder, 'root.key')).mode & 0o777, 0o600);
    assert.deepEqual(readdirSync(folder).sort(), ['root.crt', 'root.key']);
    const root = new X509Certificate(first);
    assert.ok(root.ca);
    const years = (root.validToDate.getTime() - Date.now()) / YEAR;
    assert.ok(years > 9.9 && years <= 10);
  });

  it('issues what OpenSSL verifies for both ends, with one critical URI, and what we accept', async () => {
    const ca = await open();
    const issued = await ca.issue(id('web'), 24 * HOUR, never);
    const leafFile = join(base, 'leaf.pem');
    writeFileSync(leafFile, issued.chainPem);
    for (const purpose of ['sslclient', 'sslserver']) {
      const args = [
        'verify',
        '-x509_strict',
        '-purpose',
        purpose,
        '-CAfile',
        join(folder, 'root.crt'),
        leafFile,
      ];
      assert.match(execFileSync('openssl', args).toString(), /: OK\n$/);
    }
    const text = execFileSync('openssl', ['x509', '-noout', '-text', '-in', leafFile]).toString();
    assert.match(text, /Subject: *\n/);
    assert.match(
      text,
      /Subject Alternative Name: critical\s+URI:spiffe:\/\/cluster\.local\/ns\/shop\/sa\/web\n/,
    );
    assert.match(text, /Key Usage: critical\s+Digital Signature\n/);
    assert.match(text, /TLS Web Server Authentication, TLS Web Client Authentication\n/);
    assert.match(text, /Authority Key Identifier/);
    const verdict = verifyChain(issued.chainPem, issued.rootsPem, {
      trustDomain: TRUST_DOMAIN,
      nowMs: Date.now(),
    });
    assert.ok(verdict.ok && verdict.id === WEB);
  });

  it('gives every certificate its own key and serial', async () => {
    const ca = await open();
    const both = await Promise.all([ca.issue(id('web'), HOUR, never), ca.issue(id('web'), HOUR, never)]);
    assert.notEqual(both[0].keyPem, both[1].keyPem);
    const serials = both.map(({ chainPem }) => new X509Certificate(chainPem).serialNumber);
    assert.notEqual(serials[0], serials[1]);
    for (const serial of serials) assert.ok(serial.length >= 30 && serial.length <= 32, serial);
  });

  it('makes a lifetime of seconds last at least that, and none longer than the root', async () => {
    const ca = await open();
    const short = new X509Certificate((await ca.issue(id('web'), 2_000, never)).chainPem);
    const left = short.validToDate.getTime() - Date.now();
    assert.ok(left > 0 && left <= 3_000, `${left} ms`);
    const root = new X509Certificate(await ca.roots());
    const long = new X509Certificate((await ca.issue(id('web'), 20 * YEAR, never)).chainPem);
    assert.equal(long.validTo, root.validTo);
  });

  it('issues nothing once its root has expired', async () => {
    let nowMs = Date.now();
    const ca = await open({ nowMs: () => nowMs });
    nowMs += 11 * YEAR;
    await assert.rejects(ca.issue(id('web'), HOUR, never), /root has expired/);
  });

  it('signs only a request that proves its key and asks for the wanted identity', async () => {
    const ca = await open();
    const csr = makeCsr(id('admin'), await makeKeyPair());
    assert.throws(() => ca.sign(csr, id('web'), HOUR), /asks for spiffe:.*admin/);
    const forged = Buffer.from(csr);
    forged[forged.length - 1] = (forged[forged.length - 1] ?? 0) ^ 1;
    assert.throws(() => ca.sign(forged, id('admin'), HOUR), /signature is wrong|parsed/);
    assert.match(ca.sign(csr, id('admin'), HOUR), /BEGIN CERTIFICATE/);
  });

  it('ends when it is told to', async () => {
    const ca = await open();
    await assert.rejects(ca.issue(id('web'), HOUR, AbortSignal.abort(new Error('enough'))), /enough/);
  });

  it('is one CA for daemons that start at once on one folder', async () => {
    const children = Array.from({ length: 4 }, () =>
      spawn(process.execPath, [join(import.meta.dirname, 'open-ca.ts'), folder], {
        stdio: ['pipe', 'pipe', 'inherit'],
      }),
    );
    try {
      await Promise.all(children.map((child) => once(child.stdout, 'data')));
      const outputs = children.map(async (child) => {
        const chunks: Buffer[] = [];
        child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
        await once(child, 'close');
        return Buffer.concat(chunks).toString();
      });
      for (const child of children) child.stdin.write('go\n');
      const roots = await Promise.all(outputs);
      assert.match(roots[0] ?? '', /BEGIN CERTIFICATE/);
      assert.deepEqual(new Set(roots).size, 1);
      assert.deepEqual(readdirSync(folder).sort(), ['root.crt', 'root.key']);
    } finally {
      for (const child of children) child.kill('SIGKILL');
    }
  });

  it('goes on where a daemon died between key and certificate', async () => {
    await open();
    const key = readFileSync(join(folder, 'root.key'), 'utf8');
    rmSync(join(folder, 'root.crt'));
    assert.match(await (await open()).roots(), /BEGIN/);
    assert.equal(readFileSync(join(folder, 'root.key'), 'utf8'), key);
  });

  it('takes a root that a person made, with no identity of its own', async () => {
    const own = makeCa();
    put('root.crt', own.certPem, 0o644);
    put('root.key', own.keyPem);
    const issued = await (await open()).issue(id('web'), HOUR, never);
    assert.ok(verifyChain(issued.chainPem, own.certPem, { trustDomain: TRUST_DOMAIN, nowMs: Date.now() }).ok);
  });
});

describe('a folder that is refused, and stays as it was', () => {
  it('with rights for others, or files with such', async () => {
    await open();
    chmodSync(folder, 0o750);
    await invalid(/ca: others .*Fix: chmod 700/);
    chmodSync(folder, 0o700);
    chmodSync(join(folder, 'root.key'), 0o640);
    await invalid(/root\.key: others .*Fix: chmod 600/);
    chmodSync(join(folder, 'root.key'), 0o600);
    chmodSync(join(folder, 'root.crt'), 0o622);
    await invalid(/root\.crt: others .*Fix: chmod 600/);
  });
  it('of another user', { skip: process.geteuid?.() !== 0 }, async () => {
    await open();
    execFileSync('chown', ['12345', join(folder, 'root.key')]);
    await invalid(/root\.key: it belongs to user 12345.*Fix: chown 0/);
  });
  it('that is a file or a link, or can not be made', async () => {
    writeFileSync(folder, '');
    await invalid(/ca: it can not be made/);
    rmSync(folder);
    symlinkSync(mkdtempSync(join(base, 'other-')), folder);
    await invalid(/ca: it is not a folder/);
  });
  it('whose key is a link', async () => {
    await open();
    rmSync(join(folder, 'root.key'));
    symlinkSync('/dev/null', join(folder, 'root.key'));
    await invalid(/root\.key: it is not a regular file/);
  });
  it('with files that can not be parsed, or are empty', async () => {
    await open();
    for (const text of ['', 'garbage', '-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n']) {
      put('root.key', text);
      await invalid(/root\.key: it is no private key/);
    }
    put('root.crt', 'garbage');
    put('root.key', makeCa().keyPem);
    await invalid(/root\.crt: it is no certificate/);
  });
  it('without its key: no new one is made beside an old root', async () => {
    await open();
    rmSync(join(folder, 'root.key'));
    await invalid(/root\.key: it is missing/);
    assert.ok(!existsSync(join(folder, 'root.key')));
  });
  it('whose key and root do not belong together', async () => {
    await open();
    put('root.key', makeCa().keyPem);
    await invalid(/root\.key: it is not the key of/);
  });
  it('with an expired root, or one of tomorrow', async () => {
    await open();
    await invalid(/root\.crt: it expired at/, open(at(Date.now() + 11 * YEAR)));
    await invalid(/root\.crt: it is not valid before/, open(at(Date.now() - YEAR)));
  });
  it('with a leaf or an intermediate as root', async () => {
    const ca = makeCa();
    const leaf = issue(ca, WEB);
    put('root.crt', leaf.chainPem);
    put('root.key', leaf.keyPem);
    await invalid(/root\.crt: it is no CA certificate/);
    const middle = makeIntermediate(ca);
    put('root.crt', middle.certPem);
    put('root.key', middle.keyPem);
    await invalid(/root\.crt: it is not self-signed/);
  });
  it('of another trust domain', async () => {
    await open();
    await invalid(
      /root\.crt: it is the root of spiffe:\/\/cluster\.local, not of prod/,
      open(systemClock, domain('prod')),
    );
  });
});
