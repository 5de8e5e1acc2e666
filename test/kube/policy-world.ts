/** Policies for the tests against a real API server. */
import { fileURLToPath } from 'node:url';
import { until } from '../support/wait.ts';
import type { ControlPlane } from './kit/control-plane.ts';
import { pathOf } from './manifests.ts';

export type PolicyKind = 'AuthorizationPolicy' | 'PeerAuthentication';

/** What users bring: path of the file. */
export const POLICY_EXAMPLE = fileURLToPath(new URL('policy-example.yaml', import.meta.url));
const GROUP = '/apis/security.istio.io';

export interface GivenPolicy {
  readonly version?: string;
  readonly name?: string;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly spec?: object;
}

/** An object in namespace `shop`. */
export function policy(kind: PolicyKind, given: GivenPolicy = {}): object {
  const { version = 'v1', name = 'p', annotations, spec = {} } = given;
  const apiVersion = `security.istio.io/${version}`;
  return { apiVersion, kind, metadata: { name, namespace: 'shop', annotations }, spec };
}

/** Path of an object in namespace `shop`, or of its collection. */
export function policyPath(kind: PolicyKind, name = ''): string {
  const resource = kind === 'AuthorizationPolicy' ? 'authorizationpolicies' : 'peerauthentications';
  return `${GROUP}/v1/namespaces/shop/${resource}${name === '' ? '' : `/${name}`}`;
}

/** Ours, as README says to apply them. Resolves when they are served. */
export async function applyCrds(plane: ControlPlane): Promise<void> {
  await plane.kubectl(['apply', '--server-side', '-k', pathOf('policy-crds')]);
  const served = async (): Promise<boolean> => {
    const kinds: readonly PolicyKind[] = ['AuthorizationPolicy', 'PeerAuthentication'];
    const answers = await Promise.all(kinds.map((kind) => plane.api.ask('GET', policyPath(kind))));
    return answers.every(({ status }) => status === 200);
  };
  await until('the policy kinds', served, { timeoutMs: 30_000, everyMs: 100 });
}

/** Takes the kinds away, and all their objects. */
export async function deleteCrds(plane: ControlPlane): Promise<void> {
  await plane.kubectl(['delete', '-k', pathOf('policy-crds')]);
}
