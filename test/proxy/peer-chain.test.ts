import { strict as assert } from 'node:assert';
import { generateKeyPairSync } from 'node:crypto';
import { test } from 'node:test';
import { toPem } from '../../daemon/identity/csr.ts';
import { basicConstraints, commonName, forge, keyUsage } from '../identity/forge.ts';
import { issue, localIdentity } from '../support/pki.ts';
import { SERVER_ID, openWire } from './hbone.kit.ts';

// Node builds its legacy form of a verified server's whole chain, and dereferences a null pointer at a certificate on
// a curve that has no NIST name: one word of a peer with one good certificate would end the daemon.
test('a peer that sends a CA certificate on an odd curve, too, harms nobody', async () => {
  await using wire = await openWire();
  for (const namedCurve of ['brainpoolP256r1', 'secp256k1']) {
    const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve });
    const der = forge({
      issuer: commonName(wire.ca.name),
      subject: commonName(wire.ca.name),
      extensions: [basicConstraints(true), keyUsage(1, 0x06)],
      spki: publicKey.export({ type: 'spki', format: 'der' }),
      key: privateKey,
    });
    const leaf = issue(wire.ca, SERVER_ID);
    const chainPem = leaf.chainPem + toPem('CERTIFICATE', der);
    wire.presents = localIdentity(SERVER_ID, { ...leaf, chainPem }, wire.ca.certPem);
    const opened = await wire.tunnels.open(wire.request());
    assert.ok(opened.ok, 'it did not serve');
    assert.equal(opened.peer, SERVER_ID);
    wire.tunnels.closePod(wire.request().key.podUid, true);
  }
});
