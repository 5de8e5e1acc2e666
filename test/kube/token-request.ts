/** A certificate asked for by hand, with a pod's own token: what a thief of that token gets. */
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { makeCsr, makeKeyPair, toPem } from '../../daemon/identity/csr.ts';
import { parseSpiffeId } from '../../daemon/mesh/ids.ts';
import type { SpiffeId } from '../../daemon/mesh/ids.ts';
import { until } from '../support/wait.ts';
import type { ControlPlane } from './kit/control-plane.ts';
import { at, list, text } from './manifests.ts';

export const REQUESTS = '/apis/certificates.k8s.io/v1/certificatesigningrequests';

export interface Answer {
  readonly verdict: 'Issued' | 'Denied' | 'Failed';
  readonly reason: string;
  readonly message: string;
}

/** The token that a kubelet gave to a pod, as whoever broke into its container would find it. */
export function tokenOf(pids: readonly number[]): string {
  const files = pids.map((pid) => `/proc/${pid}/root/var/run/secrets/kubernetes.io/serviceaccount/token`);
  const file = files.find((one) => existsSync(one));
  if (file === undefined) throw new Error('the pod has no token');
  return readFileSync(file, 'utf8');
}

/** The request that a daemon posts for `id`, with a key of its own. */
export async function signingRequest(name: string, id: SpiffeId): Promise<object> {
  const request = toPem('CERTIFICATE REQUEST', makeCsr(id, await makeKeyPair()));
  return {
    apiVersion: 'certificates.k8s.io/v1',
    kind: 'CertificateSigningRequest',
    metadata: { name },
    spec: {
      request: Buffer.from(request).toString('base64'),
      signerName: 'culvert.dev/workload',
      usages: ['digital signature', 'client auth', 'server auth'],
      expirationSeconds: 3_600,
    },
  };
}

/** Posts the request that a daemon would; resolves with the verdict. @throws Error when there is none in time. */
export async function requestCertificate(plane: ControlPlane, token: string, id: string): Promise<Answer> {
  const name = `thief-${randomBytes(6).toString('hex')}`;
  const spiffeId = parseSpiffeId(id);
  if (spiffeId === undefined) throw new Error(`no identity: ${id}`);
  const object = await signingRequest(name, spiffeId);
  const kubeconfig = plane.tokenKubeconfig(name, token);
  await plane.kubectl(['--kubeconfig', kubeconfig, 'create', '-f', '-'], { input: JSON.stringify(object) });
  return until(
    `a verdict on ${name}`,
    async () => verdictOf(await plane.api.must('GET', `${REQUESTS}/${name}`)),
    { timeoutMs: 60_000, everyMs: 200 },
  );
}

function verdictOf(object: unknown): Answer | undefined {
  if (at(object, 'status', 'certificate') !== undefined)
    return { verdict: 'Issued', reason: '', message: '' };
  for (const one of list(object, 'status', 'conditions')) {
    const type = text(one, 'type');
    if (type !== 'Denied' && type !== 'Failed') continue;
    return { verdict: type, reason: text(one, 'reason'), message: text(one, 'message') };
  }
  return undefined;
}
