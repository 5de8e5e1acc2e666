/** CertificateRequest objects as cert-manager's webhook leaves them, with anything in them. */
import { toPem, makeCsr } from '../../../daemon/identity/csr.ts';
import type { KeyPair } from '../../../daemon/identity/csr.ts';
import { NOW, id } from '../forge.ts';
import { DAEMON } from './requests.ts';

export const SCOPE = {
  issuer: { kind: 'ClusterIssuer', name: 'cluster-ca' },
  namespace: 'culvert-system',
} as const;
export const CERT_MANAGER = 'system:serviceaccount:cert-manager:cert-manager';

export interface IssuerAsked {
  readonly namespace?: string;
  readonly issuerRef?: Readonly<Record<string, string>>;
  readonly der?: Uint8Array;
  readonly pem?: string;
  readonly username?: string | undefined;
  readonly extra?: Readonly<Record<string, readonly string[]>>;
  readonly usages?: readonly string[] | undefined;
  readonly duration?: string | undefined;
  readonly isCA?: boolean;
  readonly ageMs?: number;
  readonly conditions?: readonly unknown[];
}

const EXTRA = {
  'authentication.kubernetes.io/pod-name': ['culvert-a'],
  'authentication.kubernetes.io/pod-uid': ['uid-a'],
  'authentication.kubernetes.io/node-name': ['node-a'],
};

/** An honest request of the daemon on node a for shop/web, but for what `asked` says. */
export function issuerObject(keys: KeyPair, asked: IssuerAsked = {}): Record<string, unknown> {
  const pem = asked.pem ?? toPem('CERTIFICATE REQUEST', asked.der ?? makeCsr(id('web'), keys));
  return {
    metadata: {
      name: 'culvert-node-a-1',
      namespace: asked.namespace ?? 'culvert-system',
      uid: 'request-1',
      creationTimestamp: new Date(NOW - (asked.ageMs ?? 60_000)).toISOString(),
    },
    spec: {
      issuerRef: asked.issuerRef ?? { name: 'cluster-ca', kind: 'ClusterIssuer', group: 'cert-manager.io' },
      request: Buffer.from(pem).toString('base64'),
      username: 'username' in asked ? asked.username : DAEMON,
      extra: asked.extra ?? EXTRA,
      usages: 'usages' in asked ? asked.usages : ['digital signature', 'client auth', 'server auth'],
      duration: 'duration' in asked ? asked.duration : '24h0m0s',
      ...(asked.isCA === undefined ? {} : { isCA: asked.isCA }),
    },
    status: { conditions: asked.conditions ?? [] },
  };
}
