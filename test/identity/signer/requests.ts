/** Request objects as the API has them, with anything in them; and the small world that judges them. */
import { AsnConvert } from '@peculiar/asn1-schema';
import { Attributes, CertificationRequest, CertificationRequestInfo } from '@peculiar/asn1-csr';
import { Attribute, Extension, Extensions, Name } from '@peculiar/asn1-x509';
import {
  arrayBuffer,
  ecdsaSha256,
  makeCsr,
  publicKeyInfo,
  signEcdsa,
  toPem,
} from '../../../daemon/identity/csr.ts';
import type { KeyPair } from '../../../daemon/identity/csr.ts';
import type { PodFacts, SignerRules, SignerWorld } from '../../../daemon/identity/signer/decide.ts';
import { readRequest } from '../../../daemon/identity/signer/request.ts';
import type { RequestSummary, SigningRequest } from '../../../daemon/identity/signer/request.ts';
import { NOW, TRUST_DOMAIN, id } from '../forge.ts';

export const DAEMON = 'system:serviceaccount:culvert-system:culvert';

export const RULES: SignerRules = {
  trustDomain: TRUST_DOMAIN,
  namespace: 'culvert-system',
  serviceAccount: 'culvert',
  maxLifetimeMs: 86_400_000,
};

export interface Asked {
  readonly name?: string;
  readonly uid?: string;
  readonly der?: Uint8Array;
  readonly signerName?: string;
  readonly username?: string;
  readonly usages?: readonly string[];
  readonly expirationSeconds?: number | undefined;
  /** `pod-name`, `pod-uid`, `node-name` by what the API server says; undefined takes one away. */
  readonly extra?: Readonly<Record<string, readonly string[] | undefined>>;
  readonly conditions?: readonly string[];
  readonly ageMs?: number;
}

/** An honest request of the daemon on node a for shop/web, but for what `asked` says. */
export function requestObject(keys: KeyPair, asked: Asked = {}): unknown {
  const extra: Asked['extra'] = {
    'pod-name': ['culvert-a'],
    'pod-uid': ['uid-a'],
    'node-name': ['node-a'],
    'credential-id': ['JTI=1'],
    ...asked.extra,
  };
  const named = Object.entries(extra).flatMap(([key, values]) =>
    values === undefined ? [] : [[`authentication.kubernetes.io/${key}`, values] as const],
  );
  const pem = toPem('CERTIFICATE REQUEST', asked.der ?? makeCsr(id('web'), keys));
  return {
    metadata: {
      name: asked.name ?? 'culvert-node-a-1',
      uid: asked.uid ?? 'request-1',
      resourceVersion: '7',
      creationTimestamp: new Date(NOW - (asked.ageMs ?? 60_000)).toISOString(),
    },
    spec: {
      request: Buffer.from(pem).toString('base64'),
      signerName: asked.signerName ?? 'culvert.dev/workload',
      usages: asked.usages ?? ['digital signature', 'client auth', 'server auth'],
      expirationSeconds: 'expirationSeconds' in asked ? asked.expirationSeconds : 86_400,
      username: asked.username ?? DAEMON,
      groups: ['system:authenticated'],
      extra: Object.fromEntries(named),
    },
    status: { conditions: (asked.conditions ?? []).map((type) => ({ type, status: 'True' })) },
  };
}

/** The same, read. */
export function request(keys: KeyPair, asked: Asked = {}): SigningRequest {
  const read = readRequest(requestObject(keys, asked));
  if (read === undefined) throw new Error('no request');
  return read;
}

/** A well-signed PKCS #10 with these extensions and this subject. */
export function oddCsr(keys: KeyPair, extensions: readonly Uint8Array[], subject?: Uint8Array): Uint8Array {
  const wanted = new Extensions(extensions.map((der) => AsnConvert.parse(arrayBuffer(der), Extension)));
  const attribute = new Attribute({ type: '1.2.840.113549.1.9.14', values: [AsnConvert.serialize(wanted)] });
  const info = new CertificationRequestInfo({
    subject: subject === undefined ? new Name() : AsnConvert.parse(arrayBuffer(subject), Name),
    subjectPKInfo: publicKeyInfo(keys.publicKey),
    attributes: new Attributes([attribute]),
  });
  const signature = signEcdsa(AsnConvert.serialize(info), keys.privateKey);
  const whole = { certificationRequestInfo: info, signatureAlgorithm: ecdsaSha256(), signature };
  return new Uint8Array(AsnConvert.serialize(new CertificationRequest(whole)));
}

export const DAEMON_A: PodFacts = {
  uid: 'uid-a',
  name: 'culvert-a',
  namespace: 'culvert-system',
  node: 'node-a',
  serviceAccount: 'culvert',
  isOver: false,
  isDaemon: true,
};

/** Node a runs our daemon and shop/web; node b our daemon and shop/db. */
export class World implements SignerWorld {
  nowMs = NOW;
  isCurrent = true;
  daemons: readonly PodFacts[] = [DAEMON_A, { ...DAEMON_A, uid: 'uid-b', name: 'culvert-b', node: 'node-b' }];
  workloads: readonly string[] = ['node-a/shop/web', 'node-b/shop/db'];
  twins: readonly RequestSummary[] = [];

  pod(namespace: string, name: string): PodFacts | undefined {
    return this.daemons.find((pod) => pod.namespace === namespace && pod.name === name);
  }
  hasWorkload(node: string, namespace: string, serviceAccount: string): boolean {
    return this.workloads.includes(`${node}/${namespace}/${serviceAccount}`);
  }
  sameKey(keyHash: string): readonly RequestSummary[] {
    return this.twins.filter((twin) => twin.keyHash === keyHash);
  }
}
