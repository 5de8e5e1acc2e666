import assert from 'node:assert/strict';
import { generateKeyPairSync } from 'node:crypto';
import { describe, it } from 'node:test';
import { SvidVerifier, verifySvid } from '../../daemon/identity/svid.ts';
import {
  CLIENT_AUTH,
  HONEST,
  NOW,
  OID,
  SERVER_AUTH,
  TRUST_DOMAIN,
  WEB,
  basicConstraints,
  commonName,
  dns,
  extKeyUsage,
  extension,
  forge,
  forgeSan,
  keyUsage,
  oid,
  san,
  tlv,
  uri,
} from './forge.ts';

const HOUR = 3_600_000;
const judge = (der: Uint8Array, nowMs = NOW) => verifySvid(der, { trustDomain: TRUST_DOMAIN, nowMs });

function refused(der: Uint8Array, detail: RegExp, reason = 'PEER_CERTIFICATE_INVALID'): void {
  const verdict = judge(der);
  assert.ok(!verdict.ok, 'it was accepted');
  assert.match(verdict.detail, detail);
  assert.equal(verdict.reason, reason);
}

/** An Istio identity of exactly this many bytes. */
function idOfLength(length: number): string {
  return WEB + 'x'.repeat(length - WEB.length);
}

const without = (index: number, ...added: Uint8Array[]): Buffer =>
  forge({ extensions: [...HONEST.filter((_, i) => i !== index), ...added] });

describe('a leaf that is an SVID', () => {
  it('of istiod: one critical URI, no subject', () => {
    assert.deepEqual(judge(forge()), { ok: true, id: WEB });
  });
  it('with nothing but its name', () => {
    assert.deepEqual(judge(forge({ extensions: [san(uri(WEB))] })), { ok: true, id: WEB });
  });
  it('with a subject, whatever that says, and an uncritical name', () => {
    const subject = commonName('spiffe://cluster.local/ns/other/sa/admin');
    const name = extension(OID.san, false, tlv(0x30, uri(WEB)));
    const der = forge({ subject, extensions: [...HONEST.slice(0, 3), name] });
    assert.deepEqual(judge(der), { ok: true, id: WEB });
  });
  it('with an ID of 2,048 bytes', () => {
    const id = idOfLength(2048);
    assert.deepEqual(judge(forgeSan(san(uri(id)))), { ok: true, id });
  });
  it('with an unknown extension that is not critical', () => {
    assert.ok(judge(forge({ extensions: [...HONEST, extension('2a0304', false, tlv(0x05))] })).ok);
  });
  it('in the first and the last instant of its life, and not outside', () => {
    assert.ok(judge(forge(), NOW - HOUR).ok);
    assert.ok(judge(forge(), NOW + HOUR).ok);
    assert.ok(!judge(forge(), NOW - HOUR - 1).ok);
    assert.ok(!judge(forge(), NOW + HOUR + 1).ok);
  });
});

describe('refused: names', () => {
  const cases: Readonly<Record<string, readonly [Buffer, RegExp]>> = {
    'no name at all': [forgeSan(), /no subject alternative name/],
    'an empty list': [forgeSan(san()), /./],
    'two URIs': [forgeSan(san(uri(WEB), uri(WEB))), /more than one/],
    'a URI and a DNS name': [forgeSan(san(uri(WEB), dns('web.shop'))), /more than one/],
    'a DNS name and a URI': [forgeSan(san(dns('web.shop'), uri(WEB))), /more than one/],
    'a URI and an IP': [forgeSan(san(uri(WEB), tlv(0x87, Buffer.of(10, 0, 0, 1)))), /more than one/],
    'a URI and an email': [forgeSan(san(uri(WEB), tlv(0x81, Buffer.from('a@b')))), /more than one/],
    'a URI and a registered ID': [forgeSan(san(uri(WEB), tlv(0x88, Buffer.of(42, 3)))), /more than one/],
    'a DNS name only': [forgeSan(san(dns(WEB))), /not a URI/],
    'a DNS name that injects a URI': [forgeSan(san(dns(`a, URI:${WEB}`))), /not a URI/],
    'two SAN extensions': [forgeSan(san(uri(WEB)), san(uri(WEB))), /twice/],
    'an empty URI': [forgeSan(san(uri(''))), /not of the form/],
    'a name that is not critical below an empty subject': [
      forgeSan(extension(OID.san, false, tlv(0x30, uri(WEB)))),
      /not critical/,
    ],
    'a URI in constructed form': [forgeSan(san(tlv(0xa6, tlv(0x16, Buffer.from(WEB))))), /./],
    'a URI with a tag of another class': [forgeSan(san(tlv(0x46, Buffer.from(WEB)))), /./],
    'a URI with a private tag': [forgeSan(san(tlv(0xc6, Buffer.from(WEB)))), /./],
    'a URI with its universal tag': [forgeSan(san(tlv(0x16, Buffer.from(WEB)))), /./],
    'an unknown kind of name': [forgeSan(san(tlv(0x89, Buffer.from(WEB)))), /./],
    'a URI and an unknown kind of name': [forgeSan(san(uri(WEB), tlv(0x89, Buffer.from(WEB)))), /./],
    'bytes after the list': [
      forgeSan(extension(OID.san, true, Buffer.concat([tlv(0x30, uri(WEB)), tlv(0x05)]))),
      /not one DER value/,
    ],
    'a SAN of the wrong type': [forgeSan(extension(OID.san, true, tlv(0x31, uri(WEB)))), /./],
    'a SAN of no DER': [forgeSan(extension(OID.san, true, Buffer.from('garbage'))), /not one DER value/],
    'an indefinite length': [
      forgeSan(extension(OID.san, true, Buffer.concat([Buffer.of(0x30, 0x80), uri(WEB), Buffer.of(0, 0)]))),
      /not one DER value/,
    ],
    'a length in more bytes than needed': [
      forgeSan(
        extension(
          OID.san,
          true,
          tlv(0x30, Buffer.concat([Buffer.of(0x86, 0x81, WEB.length), Buffer.from(WEB)])),
        ),
      ),
      /not one DER value/,
    ],
  };
  for (const [name, [der, detail]] of Object.entries(cases)) it(name, () => refused(der, detail));

  const ids: Readonly<Record<string, string>> = {
    'another scheme': WEB.replace('spiffe', 'https'),
    'an upper-case scheme': WEB.replace('spiffe', 'SPIFFE'),
    'an upper-case trust domain': WEB.replace('cluster', 'Cluster'),
    'a NUL at the end': `${WEB}\0`,
    'a NUL inside': WEB.replace('web', 'w\0eb'),
    'a newline at the end': `${WEB}\n`,
    'percent-encoding': WEB.replace('web', 'w%65b'),
    'percent-encoding in the trust domain': WEB.replace('cluster', 'cl%75ster'),
    'bytes that are not ASCII': WEB.replace('web', 'w\xe9b'),
    'a port': WEB.replace('cluster.local', 'cluster.local:443'),
    'user information': WEB.replace('cluster.local', 'me@cluster.local'),
    'a query': `${WEB}?a`,
    'a fragment': `${WEB}#a`,
    'a trailing slash': `${WEB}/`,
    'a further segment': `${WEB}/x`,
    'a missing segment': 'spiffe://cluster.local/ns/shop/sa',
    'an empty segment': 'spiffe://cluster.local/ns//sa/web',
    'two dots': 'spiffe://cluster.local/ns/../sa/web',
    'one dot': 'spiffe://cluster.local/ns/shop/sa/.',
    'another path': 'spiffe://cluster.local/workload/web',
    'upper-case segments': 'spiffe://cluster.local/NS/shop/SA/web',
    'no path': 'spiffe://cluster.local',
    'no trust domain': 'spiffe:///ns/shop/sa/web',
    'a comma that starts a second one': `${WEB}, URI:${WEB}`,
    '2,049 bytes': idOfLength(2049),
    '10,000 bytes': idOfLength(10_000),
  };
  for (const [name, text] of Object.entries(ids))
    it(`an ID with ${name}`, () => refused(forgeSan(san(uri(text))), /not of the form/));

  it('another trust domain, told apart', () => {
    for (const other of ['cluster.locale', 'xcluster.local', 'cluster.loca', 'prod.cluster.local'])
      refused(
        forgeSan(san(uri(WEB.replace('cluster.local', other)))),
        /not of trust domain cluster\.local/,
        'PEER_TRUST_DOMAIN',
      );
  });
});

describe('refused: usage', () => {
  const cases: Readonly<Record<string, readonly [Buffer, RegExp]>> = {
    'a CA': [without(2, basicConstraints(true)), /CA certificate/],
    keyCertSign: [without(0, keyUsage(2, 0x84)), /signing certificates/],
    cRLSign: [without(0, keyUsage(1, 0x82)), /signing certificates/],
    'keyCertSign in a bit that is declared unused': [without(0, keyUsage(7, 0x84)), /signing certificates/],
    'no digitalSignature': [without(0, keyUsage(5, 0x20)), /lacks digitalSignature/],
    'an empty key usage': [without(0, keyUsage(0)), /lacks digitalSignature/],
    'serverAuth only': [without(1, extKeyUsage(SERVER_AUTH)), /lacks serverAuth or clientAuth/],
    'clientAuth only': [without(1, extKeyUsage(CLIENT_AUTH)), /lacks serverAuth or clientAuth/],
    'any purpose': [without(1, extKeyUsage(oid('551d2500'))), /lacks serverAuth or clientAuth/],
    'two key usages': [forge({ extensions: [...HONEST, keyUsage(7, 0x80)] }), /twice/],
    'two extended key usages': [forge({ extensions: [...HONEST, HONEST[1]] }), /twice/],
    'two basic constraints': [forge({ extensions: [...HONEST, basicConstraints(false)] }), /twice/],
    'an unknown extension twice': [
      forge({ extensions: [...HONEST, ...Array<Buffer>(2).fill(extension('2a0304', false, tlv(0x05)))] }),
      /twice/,
    ],
    'an unknown critical extension': [
      forge({ extensions: [...HONEST, extension('2a0304', true, tlv(0x05))] }),
      /not known/,
    ],
    'critical name constraints': [
      forge({ extensions: [...HONEST, extension(OID.nameConstraints, true, tlv(0x30))] }),
      /not known/,
    ],
    '33 extensions': [
      forge({
        extensions: [
          ...HONEST,
          ...Array.from({ length: 29 }, (_, i) =>
            extension(`2a03${(i + 16).toString(16)}`, false, tlv(0x05)),
          ),
        ],
      }),
      /more than 32/,
    ],
  };
  for (const [name, [der, detail]] of Object.entries(cases)) it(name, () => refused(der, detail));
  it('but takes 32 extensions', () => {
    const more = Array.from({ length: 28 }, (_, i) =>
      extension(`2a03${(i + 16).toString(16)}`, false, tlv(0x05)),
    );
    assert.ok(judge(forge({ extensions: [...HONEST, ...more] })).ok);
  });
});

describe('refused: the certificate as a whole', () => {
  const honest = forge();
  const cases: Readonly<Record<string, readonly [Buffer, RegExp]>> = {
    'one byte after it': [Buffer.concat([honest, Buffer.of(0)]), /not one DER/],
    'another one after it': [Buffer.concat([honest, honest]), /not one DER/],
    'one byte less': [honest.subarray(0, -1), /not one DER/],
    nothing: [Buffer.alloc(0), /not one DER/],
    'version 1': [forge({ version: Buffer.alloc(0) }), /v3/],
    'version 2': [forge({ version: tlv(0xa0, tlv(0x02, Buffer.of(1))) }), /v3/],
    'expired by an hour': [forge({ notAfterMs: NOW - 1_000 }), /expired at 2026/],
    'not valid yet': [forge({ notBeforeMs: NOW + 1_000 }), /not valid before 2026/],
    'more than 16 KiB': [
      forge({ extensions: [...HONEST, extension('2a0304', false, Buffer.alloc(17_000))] }),
      /more than 16384/,
    ],
    'another ASN.1 value': [tlv(0x30, tlv(0x02, Buffer.of(1))), /parsed/],
    'deep nesting': [
      Array.from({ length: 1_000 }).reduce<Buffer>((inner) => tlv(0x30, inner), tlv(0x05)),
      /not one DER/,
    ],
  };
  for (const [name, [der, detail]] of Object.entries(cases)) it(name, () => refused(der, detail));

  it('with a context-specific tag in a SEQUENCE’s place, or no digit in a time, which the ASN.1 library would take', () => {
    const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const spki = publicKey.export({ type: 'spki', format: 'der' });
    const der = forge({ spki });
    const [keyFrom, keyTo] = [der.indexOf(spki) + 25, der.indexOf(spki) + spki.length];
    const signatureFrom = der.length - 9;
    let tried = 0;
    for (const [at, byte] of der.entries()) {
      if (byte !== 0x30 || (at >= keyFrom && at < keyTo) || at >= signatureFrom) continue;
      for (const tag of [0xa0, 0xa1, 0xa3]) {
        const wrong = Buffer.from(der);
        wrong[at] = tag;
        assert.ok(!judge(wrong).ok, `tag ${tag.toString(16)} at ${at} of ${der.toString('hex')}`);
        tried += 1;
      }
    }
    assert.ok(tried > 30);
  });

  it('says what it saw on one short line', () => {
    const verdict = judge(forgeSan(san(uri(`https://evil\n\x1b[31m${'x'.repeat(5_000)}`))));
    assert.ok(!verdict.ok);
    assert.ok(verdict.detail.length < 400);
    assert.doesNotMatch(verdict.detail, /[^\x20-\x7e…]/);
  });
});

describe('the verifier of handshakes', () => {
  it('judges as verifySvid, and asks the clock each time', () => {
    const verifier = new SvidVerifier(TRUST_DOMAIN);
    assert.deepEqual(verifier.verify(forge(), NOW), { ok: true, id: WEB });
    assert.deepEqual(verifier.verify(forge(), NOW), { ok: true, id: WEB });
    assert.equal(verifier.verify(forge(), NOW + HOUR + 1).ok, false);
    assert.equal(verifier.verify(forge(), NOW - HOUR - 1).ok, false);
    assert.deepEqual(verifier.verify(forge(), NOW), { ok: true, id: WEB });
    assert.equal(verifier.size, 1);
  });
  it('remembers good leaves only, and a bounded number', () => {
    const verifier = new SvidVerifier(TRUST_DOMAIN, 3);
    for (let i = 0; i < 4; i++) {
      const id = `spiffe://cluster.local/ns/shop/sa/web-${i}`;
      assert.deepEqual(verifier.verify(forgeSan(san(uri(id))), NOW), { ok: true, id });
    }
    assert.ok(!verifier.verify(forgeSan(san(uri('https://a'))), NOW).ok);
    assert.equal(verifier.size, 3);
  });
});
