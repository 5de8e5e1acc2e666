import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { before, describe, it } from 'node:test';
import { AsnConvert } from '@peculiar/asn1-schema';
import { Attributes, CertificationRequest, CertificationRequestInfo } from '@peculiar/asn1-csr';
import { Attribute, Extension, Extensions, Name } from '@peculiar/asn1-x509';
import {
  arrayBuffer,
  ecdsaSha256,
  makeCsr,
  makeKeyPair,
  publicKeyInfo,
  signEcdsa,
} from '../../daemon/identity/csr.ts';
import { toPem, uriSan, verifyCsr } from '../../daemon/identity/csr.ts';
import type { KeyPair } from '../../daemon/identity/csr.ts';
import { WEB, commonName, dns, extension, id, san, uri } from './forge.ts';

let keys: KeyPair;
before(async () => {
  keys = await makeKeyPair();
});

/** A well-signed request with anything in it. */
function request(
  extensions: readonly Uint8Array[],
  subject?: Uint8Array,
  pair = keys,
  copies = 1,
): Uint8Array {
  const wanted = new Extensions(extensions.map((der) => AsnConvert.parse(arrayBuffer(der), Extension)));
  const attribute = new Attribute({ type: '1.2.840.113549.1.9.14', values: [AsnConvert.serialize(wanted)] });
  const info = new CertificationRequestInfo({
    subject: subject === undefined ? new Name() : AsnConvert.parse(arrayBuffer(subject), Name),
    subjectPKInfo: publicKeyInfo(pair.publicKey),
    attributes: new Attributes(Array.from({ length: copies }, () => attribute)),
  });
  const signature = signEcdsa(AsnConvert.serialize(info), pair.privateKey);
  const whole = { certificationRequestInfo: info, signatureAlgorithm: ecdsaSha256(), signature };
  return new Uint8Array(AsnConvert.serialize(new CertificationRequest(whole)));
}

function refused(csr: Uint8Array, detail: RegExp): void {
  const verdict = verifyCsr(csr);
  assert.ok(!verdict.ok, 'it was accepted');
  assert.match(verdict.detail, detail);
}

describe('a request', () => {
  it('asks for its identity and proves its key', () => {
    const verdict = verifyCsr(makeCsr(id('web'), keys));
    assert.ok(verdict.ok);
    assert.equal(verdict.id, WEB);
    assert.ok(verdict.publicKey.equals(keys.publicKey));
  });
  it('is read by OpenSSL as one critical URI below an empty subject', () => {
    const pem = toPem('CERTIFICATE REQUEST', makeCsr(id('web'), keys));
    const text = execFileSync('openssl', ['req', '-verify', '-noout', '-text'], {
      input: pem,
      stdio: ['pipe', 'pipe', 'ignore'],
    }).toString();
    assert.match(text, /Subject: *\n/);
    assert.match(
      text,
      /X509v3 Subject Alternative Name: critical\s+URI:spiffe:\/\/cluster\.local\/ns\/shop\/sa\/web\n/,
    );
    assert.match(text, /prime256v1/);
    assert.doesNotMatch(text, /Key Usage|Basic Constraints/);
  });
  it('is refused with a changed byte in its name, or its key', () => {
    for (const where of [WEB, keys.publicKey.export({ type: 'spki', format: 'der' }).subarray(-20)]) {
      const csr = Buffer.from(makeCsr(id('web'), keys));
      const at = csr.indexOf(where) + where.length - 1;
      csr[at] = (csr[at] ?? 0) ^ 1;
      refused(csr, /signature is wrong|parsed/);
    }
  });
  it('is refused with bytes after it, or none', () => {
    refused(Buffer.concat([makeCsr(id('web'), keys), Buffer.of(0)]), /not one DER/);
    refused(Buffer.alloc(0), /not one DER/);
    refused(Buffer.alloc(16_385), /more than 16384/);
  });
  it('is refused when it asks for anything else', () => {
    refused(request([san(uri(WEB), uri(WEB))]), /exactly one/);
    refused(request([san(uri(WEB), dns('web'))]), /exactly one/);
    refused(request([san(dns(WEB))]), /exactly one/);
    refused(request([san(uri('https://web'))]), /exactly one/);
    refused(request([san(uri(WEB)), san(uri(WEB))]), /exactly one/);
    refused(
      request([san(uri(WEB)), extension('551d13', true, Buffer.from('30030101ff', 'hex'))]),
      /exactly one/,
    );
    refused(request([]), /exactly one/);
    refused(request([san(uri(WEB))], undefined, keys, 2), /exactly one/);
    refused(request([san(uri(WEB))], commonName('admin')), /subject is not empty/);
    assert.ok(verifyCsr(request([san(uri(WEB))])).ok);
  });
  it('is refused with a key that is not P-256', () => {
    const other = generateKeyPairSync('ec', { namedCurve: 'P-384' });
    refused(makeCsr(id('web'), other), /not ECDSA P-256/);
  });
  it('has a critical name', () => {
    assert.equal(uriSan(WEB).critical, true);
  });
});
