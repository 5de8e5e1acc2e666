/** A TLS server's certificate for an IP address, under the root of a local CA's folder: what no SVID can be. */
import { AsnConvert } from '@peculiar/asn1-schema';
import {
  Certificate,
  ExtendedKeyUsage,
  Extensions,
  GeneralName,
  Name,
  SubjectAlternativeName,
  TBSCertificate,
  Validity,
  Version,
  id_ce_extKeyUsage,
  id_ce_subjectAltName,
  id_kp_serverAuth,
} from '@peculiar/asn1-x509';
import { randomBytes } from 'node:crypto';
import {
  arrayBuffer,
  ecdsaSha256,
  extensionOf,
  keyPem,
  makeKeyPair,
  publicKeyInfo,
  signEcdsa,
  toPem,
} from '../../daemon/identity/csr.ts';
import { parseCertificate } from '../../daemon/identity/extensions.ts';
import { openFolder } from '../../daemon/identity/sources/local-folder.ts';
import type { Ip, TrustDomain } from '../../daemon/mesh/ids.ts';

const HOUR_MS = 3_600_000;

/** Key and certificate (PEM), good for a day. @throws MeshError when the folder is unusable. */
export async function serverCertificate(
  folder: string,
  trustDomain: TrustDomain,
  address: Ip,
): Promise<{ readonly keyPem: string; readonly chainPem: string }> {
  const now = Date.now();
  const { root, key } = await openFolder(folder, trustDomain, now);
  const keys = await makeKeyPair();
  const serial = randomBytes(16);
  serial[0] = ((serial[0] ?? 0) & 0x3f) | 0x40;
  const names = new SubjectAlternativeName([new GeneralName({ iPAddress: address })]);
  const tbs = new TBSCertificate({
    version: Version.v3,
    serialNumber: arrayBuffer(serial),
    signature: ecdsaSha256(),
    issuer: parseCertificate(root.raw).tbsCertificate.subject,
    validity: new Validity({ notBefore: new Date(now - HOUR_MS), notAfter: new Date(now + 24 * HOUR_MS) }),
    subject: new Name(),
    subjectPublicKeyInfo: publicKeyInfo(keys.publicKey),
    extensions: new Extensions([
      extensionOf(id_ce_extKeyUsage, new ExtendedKeyUsage([id_kp_serverAuth]), false),
      extensionOf(id_ce_subjectAltName, names, true),
    ]),
  });
  const raw = AsnConvert.serialize(tbs);
  const certificate = new Certificate({
    tbsCertificate: tbs,
    tbsCertificateRaw: raw,
    signatureAlgorithm: ecdsaSha256(),
    signatureValue: signEcdsa(raw, key),
  });
  const der = new Uint8Array(AsnConvert.serialize(certificate));
  return { keyPem: keyPem(keys.privateKey), chainPem: toPem('CERTIFICATE', der) };
}
