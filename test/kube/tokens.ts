/** Tokens of our own accounts, and what the API server says to whoever holds one. */
import { request } from 'node:https';
import type { ControlPlane } from './kit/control-plane.ts';
import { text } from './manifests.ts';

const OWN = 'culvert-system';

/** A token of an account, in our namespace unless said otherwise, bound to a pod there as the kubelet's are. */
export async function boundToken(
  plane: ControlPlane,
  account: string,
  podName?: string,
  namespace = OWN,
): Promise<string> {
  const spec =
    podName === undefined ? {} : { boundObjectRef: { apiVersion: 'v1', kind: 'Pod', name: podName } };
  const body = { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec };
  const path = `/api/v1/namespaces/${namespace}/serviceaccounts/${account}/token`;
  return text(await plane.api.must('POST', path, { body }), 'status', 'token');
}

export interface Answer {
  readonly status: number;
  readonly body: unknown;
}

/** One request as that token's holder; a PATCH is a merge patch. */
export function askAs(
  plane: ControlPlane,
  bearer: string,
  method: string,
  path: string,
  body?: unknown,
): Promise<Answer> {
  const { promise, resolve, reject } = Promise.withResolvers<Answer>();
  const type = method === 'PATCH' ? 'application/merge-patch+json' : 'application/json';
  const headers = { authorization: `Bearer ${bearer}`, 'content-type': type };
  const asked = request(new URL(path, plane.url), { method, headers, ca: plane.pki.caPem }, (answer) => {
    const chunks: Buffer[] = [];
    answer.on('data', (chunk: Buffer) => chunks.push(chunk));
    answer.on('error', reject);
    answer.on('end', () => {
      const words = Buffer.concat(chunks).toString();
      const parsed: unknown = words.startsWith('{') ? JSON.parse(words) : words;
      resolve({ status: answer.statusCode ?? 0, body: parsed });
    });
  });
  asked.on('error', reject);
  asked.end(body === undefined ? undefined : JSON.stringify(body));
  return promise;
}
