/** What the API says our accounts may do (after), or the person who will apply the manifests (before). */
import { z } from 'zod';
import { KubeError } from '../../kube/seams.ts';
import type { KubeApi } from '../../kube/seams.ts';
import type { Finding } from '../io.ts';

interface Right {
  readonly verb: string;
  readonly group: string;
  readonly resource: string;
  readonly subresource?: string;
  readonly name?: string;
  /** Asked in our own namespace. */
  readonly own?: true;
}

interface BySource {
  readonly daemon: readonly Right[];
  readonly ca: readonly Right[];
}

export interface AccessOptions {
  /** Before anything of ours is applied. */
  readonly pre?: true;
  readonly systemNamespace: string;
  /** Config `certSource` of the cluster's daemons. */
  readonly certSource: string;
}

const SIGNER = 'culvert.dev/workload';
const POLICY_GROUP = 'security.istio.io';
const POLICIES = ['authorizationpolicies', 'peerauthentications'] as const;

const REQUESTS = 'certificaterequests';

/** manifests/base and overlays/cert-manager give these and more; test/kube/manifests.test.ts holds them together. */
const DAEMON: readonly Right[] = [
  ...['namespaces', 'nodes', 'pods', 'services'].map((resource) => ({ verb: 'watch', group: '', resource })),
  { verb: 'watch', group: 'discovery.k8s.io', resource: 'endpointslices' },
  ...POLICIES.map((resource) => ({ verb: 'watch', group: POLICY_GROUP, resource })),
  { verb: 'patch', group: '', resource: 'pods', subresource: 'status' },
  { verb: 'create', group: 'events.k8s.io', resource: 'events' },
  { verb: 'get', group: 'apps', resource: 'daemonsets', name: 'culvert', own: true },
];
const CA: readonly Right[] = [
  { verb: 'update', group: 'coordination.k8s.io', resource: 'leases', name: 'culvert-ca', own: true },
  ...POLICIES.map((resource) => ({ verb: 'patch', group: POLICY_GROUP, resource, subresource: 'status' })),
];
/** What comes besides, with certificates from our own CA and from cert-manager. */
const OWN_CA: BySource = {
  daemon: [{ verb: 'create', group: 'certificates.k8s.io', resource: 'certificatesigningrequests' }],
  ca: [
    { verb: 'watch', group: 'certificates.k8s.io', resource: 'certificatesigningrequests' },
    { verb: 'approve', group: 'certificates.k8s.io', resource: 'signers', name: SIGNER },
    { verb: 'sign', group: 'certificates.k8s.io', resource: 'signers', name: SIGNER },
    { verb: 'get', group: '', resource: 'secrets', name: 'culvert-ca', own: true },
  ],
};
const CERT_MANAGER: BySource = {
  daemon: [{ verb: 'create', group: 'cert-manager.io', resource: REQUESTS, own: true }],
  ca: [
    { verb: 'watch', group: 'cert-manager.io', resource: REQUESTS },
    { verb: 'update', group: 'cert-manager.io', resource: REQUESTS, subresource: 'status' },
  ],
};
/** Whoever applies the base must be able to make these. */
const PERSON: readonly Right[] = [
  { verb: 'create', group: '', resource: 'namespaces' },
  { verb: 'create', group: 'rbac.authorization.k8s.io', resource: 'clusterroles' },
  { verb: 'create', group: 'rbac.authorization.k8s.io', resource: 'clusterrolebindings' },
  { verb: 'create', group: 'admissionregistration.k8s.io', resource: 'validatingadmissionpolicies' },
  { verb: 'create', group: 'apps', resource: 'daemonsets', own: true },
  { verb: 'create', group: 'apps', resource: 'deployments', own: true },
];
/** What a daemon must not be able to do: with it a stolen node would be more than that node. */
const FORBIDDEN: readonly Right[] = [
  { verb: 'approve', group: 'certificates.k8s.io', resource: 'signers', name: SIGNER },
  { verb: 'get', group: '', resource: 'secrets', name: 'culvert-ca', own: true },
  { verb: 'update', group: '', resource: 'pods' },
  ...POLICIES.map((resource) => ({ verb: 'patch', group: POLICY_GROUP, resource })),
  ...POLICIES.map((resource) => ({ verb: 'patch', group: POLICY_GROUP, resource, subresource: 'status' })),
];

const reviewSchema = z.looseObject({ status: z.looseObject({ allowed: z.boolean() }) });

/** A finding for each account; asking on behalf of others needs a right of its own. @throws KubeError */
export async function accessFindings(
  api: KubeApi,
  { pre, systemNamespace, certSource }: AccessOptions,
): Promise<Finding[]> {
  const { daemon, ca } = certSource === 'cert-manager' ? CERT_MANAGER : OWN_CA;
  const ask = (rights: readonly Right[], account?: string): Promise<Finding> =>
    asked(api, systemNamespace, rights, account);
  if (pre === true) return [await ask(PERSON)];
  return [
    await ask([...DAEMON, ...daemon], 'culvert'),
    await ask([...CA, ...ca], 'culvert-ca'),
    await refused(api, systemNamespace, FORBIDDEN, 'culvert'),
  ];
}

async function asked(
  api: KubeApi,
  system: string,
  rights: readonly Right[],
  account: string | undefined,
): Promise<Finding> {
  const who = account === undefined ? 'you' : `account ${system}/${account}`;
  const common = { id: 'RIGHTS', what: `${who} may do what is needed` };
  const answers = await review(api, system, rights, account);
  if (answers === undefined)
    return { ...common, ok: 'warn', detail: 'your account may not ask', fix: 'ask with cluster-admin' };
  const missing = rights.filter((_, i) => answers[i] !== true).map(text);
  const fix =
    account === undefined ? 'apply with an account that may' : 'kubectl apply -k the manifests again';
  return missing.length === 0
    ? { ...common, ok: true, detail: `${rights.length} asked`, fix: '' }
    : { ...common, ok: false, detail: `not: ${missing.join('; ')}`, fix };
}

async function refused(
  api: KubeApi,
  system: string,
  rights: readonly Right[],
  account: string,
): Promise<Finding> {
  const common = { id: 'RIGHTS_TOO_WIDE', what: `account ${system}/${account} may do no more than that` };
  const answers = await review(api, system, rights, account);
  if (answers === undefined) return { ...common, ok: 'warn', detail: 'your account may not ask', fix: '' };
  const wide = rights.filter((_, i) => answers[i] === true).map(text);
  return wide.length === 0
    ? { ...common, ok: true, detail: `${rights.length} asked`, fix: '' }
    : { ...common, ok: false, detail: `may: ${wide.join('; ')}`, fix: 'remove the binding that grants it' };
}

/** One answer for each right; undefined when we may not ask for others. */
async function review(
  api: KubeApi,
  system: string,
  rights: readonly Right[],
  account: string | undefined,
): Promise<readonly boolean[] | undefined> {
  try {
    return await Promise.all(rights.map((right) => isAllowed(api, system, right, account)));
  } catch (error) {
    if (error instanceof KubeError && error.status === 403) return undefined;
    throw error;
  }
}

async function isAllowed(
  api: KubeApi,
  system: string,
  { verb, group, resource, subresource, name, own }: Right,
  account: string | undefined,
): Promise<boolean> {
  const resourceAttributes = {
    verb,
    group,
    resource,
    ...(subresource === undefined ? {} : { subresource }),
    ...(name === undefined ? {} : { name }),
    ...(own === true ? { namespace: system } : {}),
  };
  const kind = account === undefined ? 'SelfSubjectAccessReview' : 'SubjectAccessReview';
  const spec = { resourceAttributes, ...(account === undefined ? {} : userOf(system, account)) };
  const body = { apiVersion: 'authorization.k8s.io/v1', kind, spec };
  const path = `/apis/authorization.k8s.io/v1/${kind.toLowerCase()}s`;
  return reviewSchema.parse(await api.request({ method: 'POST', path, body })).status.allowed;
}

/** Who an account's token makes its holder: rights come through the groups too, and the API adds none by itself. */
function userOf(namespace: string, account: string): { user: string; groups: readonly string[] } {
  const all = 'system:serviceaccounts';
  return {
    user: `system:serviceaccount:${namespace}:${account}`,
    groups: [all, `${all}:${namespace}`, 'system:authenticated'],
  };
}

function text({ verb, resource, subresource, name }: Right): string {
  return `${verb} ${resource}${subresource === undefined ? '' : `/${subresource}`}${name === undefined ? '' : ` ${name}`}`;
}
