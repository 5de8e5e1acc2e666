/**
 * What `culvert-ca` signs, and what not (DESIGN.md section 6): pure, asked at approval and once more at signing. A
 * stolen node gets that node's identities and no others.
 */
import type { KeyObject } from 'node:crypto';
import type { SpiffeId, TrustDomain } from '../../mesh/ids.ts';
import { splitSpiffeId } from '../../mesh/ids.ts';
import { verifyCsr } from '../csr.ts';
import { excerpt } from '../text.ts';
import { SIGNER_NAME, USAGES } from './request.ts';
import type { RequestSummary, SigningRequest } from './request.ts';

/** What stands in a condition's `reason`, an Event and a metric. Stable. */
export type DenyReason =
  | 'OtherSigner'
  | 'NotTheDaemon'
  | 'NoPodBinding'
  | 'PodUnknown'
  | 'NotOurPod'
  | 'PodNotOnNode'
  | 'NodeUnproven'
  | 'NodeMismatch'
  | 'RequestInvalid'
  | 'ForeignTrustDomain'
  | 'UsagesNotAllowed'
  | 'LifetimeNotAllowed'
  | 'NoSuchWorkload'
  | 'KeyReused'
  | 'CaNotAllowed'
  | 'OtherNamespace';

/** What is asked for, once nothing speaks against it. */
export interface Grant {
  readonly id: SpiffeId;
  readonly publicKey: KeyObject;
  /** Of the daemon that asks. */
  readonly node: string;
  readonly lifetimeMs: number;
}

export type Decision =
  | ({ readonly verdict: 'grant' } & Grant)
  /** `detail` is a sentence for a person. */
  | { readonly verdict: 'deny'; readonly reason: DenyReason; readonly detail: string }
  /** Not decided yet: the world may only be behind. */
  | { readonly verdict: 'wait'; readonly detail: string };

/** A pod as the signer knows it. */
export interface PodFacts {
  readonly uid: string;
  readonly name: string;
  readonly namespace: string;
  /** '' while it is not scheduled. */
  readonly node: string;
  /** As the API has it; '' for mirror pods, which have none. */
  readonly serviceAccount: string;
  /** Succeeded or Failed: nothing of it runs any more. */
  readonly isOver: boolean;
  /** Has the labels of our daemon, and our DaemonSet as its controller. */
  readonly isDaemon: boolean;
}

export interface SignerRules {
  readonly trustDomain: TrustDomain;
  /** Our own namespace, and the daemon's service account in it. */
  readonly namespace: string;
  readonly serviceAccount: string;
  /** The longest certificate that is given. */
  readonly maxLifetimeMs: number;
}

export interface SignerWorld {
  readonly nowMs: number;
  /** Whether what is known of pods is current: nothing is granted on old facts, nor denied for what is not there. */
  readonly isCurrent: boolean;
  pod(namespace: string, name: string): PodFacts | undefined;
  /** Whether a pod of the account that is not over is on the node. */
  hasWorkload(node: string, namespace: string, serviceAccount: string): boolean;
  /** Other requests of our signer with this key. */
  sameKey(keyHash: string): readonly RequestSummary[];
}

/** The API's own least (kubernetes/api certificates/v1 expirationSeconds). */
export const MIN_EXPIRATION_S = 600;
/** For so long after a request was made, what is not there may still come: our watch is behind the API by a moment. */
const PATIENCE_MS = 15_000;

/** How long a certificate may be asked for, and where that stands. */
export interface LifetimeBounds {
  readonly field: 'expirationSeconds' | 'duration';
  /** Seconds. */
  readonly least: number;
  readonly most: number;
}

/** Whether `request` may have its certificate, by the world as it is now. */
export function decide(request: SigningRequest, world: SignerWorld, rules: SignerRules): Decision {
  const { signerName } = request;
  if (signerName !== SIGNER_NAME)
    return deny('OtherSigner', `it is for signer ${excerpt(signerName)}, not for ${SIGNER_NAME}`);
  const most = Math.max(MIN_EXPIRATION_S, rules.maxLifetimeMs / 1_000);
  return decideIdentity(request, world, rules, { field: 'expirationSeconds', least: MIN_EXPIRATION_S, most });
}

/** The same for a request that came by whatever way. */
export function decideIdentity(
  request: SigningRequest,
  world: SignerWorld,
  rules: SignerRules,
  bounds: LifetimeBounds,
): Decision {
  const { username } = request.requester;
  const account = `system:serviceaccount:${rules.namespace}:${rules.serviceAccount}`;
  if (username !== account) return deny('NotTheDaemon', `only ${account} may ask, not ${excerpt(username)}`);
  const wanted = judgeContents(request, rules, bounds);
  if (wanted.verdict !== 'wanted') return wanted;
  const bound = nodeOf(request, world, rules);
  if (bound.verdict !== 'bound') return bound;
  const { namespace, serviceAccount } = wanted;
  if (!world.hasWorkload(bound.node, namespace, serviceAccount))
    return absent(request, world, {
      reason: 'NoSuchWorkload',
      detail: `no pod with service account ${serviceAccount} of namespace ${namespace} runs on node ${bound.node}, from where it comes`,
    });
  const twin = twinOf(request, world);
  if (twin !== undefined)
    return deny(
      'KeyReused',
      `its key is that of ${excerpt(twin.name)}: every request needs a key of its own`,
    );
  const { id, publicKey, lifetimeMs } = wanted;
  return { verdict: 'grant', id, publicKey, lifetimeMs, node: bound.node };
}

type Deny = Extract<Decision, { verdict: 'deny' }>;
type Wait = Extract<Decision, { verdict: 'wait' }>;

interface Wanted {
  readonly verdict: 'wanted';
  readonly id: SpiffeId;
  readonly namespace: string;
  readonly serviceAccount: string;
  readonly publicKey: KeyObject;
  readonly lifetimeMs: number;
}

/** The request's own contents, apart from who asks. */
function judgeContents(
  request: SigningRequest,
  rules: SignerRules,
  { field, least, most }: LifetimeBounds,
): Wanted | Deny {
  if (request.der === undefined) return deny('RequestInvalid', 'it holds no PEM certificate request');
  const csr = verifyCsr(request.der);
  if (!csr.ok) return deny('RequestInvalid', csr.detail);
  const parts = splitSpiffeId(csr.id);
  if (parts?.trustDomain !== rules.trustDomain)
    return deny('ForeignTrustDomain', `${csr.id} is not of trust domain ${rules.trustDomain}`);
  const asked = [...request.usages].sort();
  if (asked.length !== USAGES.length || asked.some((usage, i) => usage !== USAGES[i]))
    return deny(
      'UsagesNotAllowed',
      `its usages are ${excerpt(asked.join(', '))}; they must be ${USAGES.join(', ')}`,
    );
  const seconds = request.expirationSeconds;
  if (seconds === undefined || seconds < least || seconds > most)
    return deny(
      'LifetimeNotAllowed',
      `its ${field} is ${seconds ?? 'missing'}; this CA gives ${least} to ${most} seconds (certLifetime of culvert-ca)`,
    );
  const { namespace, serviceAccount } = parts;
  const lifetimeMs = Math.min(seconds * 1_000, rules.maxLifetimeMs);
  return { verdict: 'wanted', id: csr.id, publicKey: csr.publicKey, namespace, serviceAccount, lifetimeMs };
}

/** The node that the requester's token proves: by the pod that it is bound to, with which node-name must agree. */
function nodeOf(
  request: SigningRequest,
  world: SignerWorld,
  rules: SignerRules,
): { readonly verdict: 'bound'; readonly node: string } | Deny | Wait {
  const { podName, podUid, nodeName } = request.requester;
  if (podName === undefined || podUid === undefined)
    return deny('NoPodBinding', 'the requester has no token bound to one pod (extra pod-name and pod-uid)');
  if (nodeName === undefined)
    return deny(
      'NodeUnproven',
      'the requester has no token that names one node (extra node-name): Kubernetes 1.30 is the least that works',
    );
  const pod = world.pod(rules.namespace, podName);
  const who = `pod ${excerpt(podName)} in namespace ${rules.namespace}`;
  if (pod?.uid !== podUid)
    return absent(request, world, {
      reason: 'PodUnknown',
      detail: `there is no ${who} with the UID ${excerpt(podUid)} of the requester's token`,
    });
  if (!pod.isDaemon || pod.serviceAccount !== rules.serviceAccount || pod.isOver)
    return deny('NotOurPod', `the ${who} is no running pod of our DaemonSet`);
  if (pod.node === '')
    return absent(request, world, { reason: 'PodNotOnNode', detail: `the ${who} is on no node` });
  if (pod.node !== nodeName)
    return deny('NodeMismatch', `the ${who} is on node ${pod.node}, the token says ${excerpt(nodeName)}`);
  return world.isCurrent
    ? { verdict: 'bound', node: pod.node }
    : { verdict: 'wait', detail: 'what is known of pods is not current: the API server does not answer' };
}

/** Something is not there: denied, unless the request is so new, or our knowledge so old, that it may only be unseen. */
function absent(request: SigningRequest, world: SignerWorld, why: Omit<Deny, 'verdict'>): Deny | Wait {
  const isNew = !(world.nowMs - request.createdMs > PATIENCE_MS);
  return isNew || !world.isCurrent ? { verdict: 'wait', detail: why.detail } : deny(why.reason, why.detail);
}

/**
 * An earlier request of the same pod with the same key. Earlier: one that got further, or was made in an earlier second,
 * or stands first by UID; so that of two copies exactly one is refused. Neither what was refused nor anybody else's copy
 * takes a key away from its owner: all daemons can read all requests, and a certificate is of no use without the key.
 */
function twinOf(request: SigningRequest, world: SignerWorld): RequestSummary | undefined {
  if (request.keyHash === undefined) return undefined;
  const { username, podUid } = request.requester;
  return world
    .sameKey(request.keyHash)
    .find(
      (other) =>
        other.uid !== request.uid &&
        other.username === username &&
        other.source === podUid &&
        rank(other) > 0 &&
        isEarlier(other, request),
    );
}

function isEarlier(other: RequestSummary, request: SigningRequest): boolean {
  const further = rank(other) - rank(request);
  if (further !== 0) return further > 0;
  if (other.createdMs !== request.createdMs) return other.createdMs < request.createdMs;
  return other.uid < request.uid;
}

function rank({ phase }: Pick<RequestSummary, 'phase'>): number {
  return { denied: 0, failed: 0, pending: 1, approved: 2, issued: 3 }[phase];
}

function deny(reason: DenyReason, detail: string): Deny {
  return { verdict: 'deny', reason, detail };
}
