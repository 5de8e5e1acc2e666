/** How far a rotation is, as it stands in ConfigMap culvert-ca-rotation and `culvert ca status` shows it. Pure. */
import type { SigningCa } from './issuer.ts';
import type { CaState, Waiting } from './rotation.ts';

/** Of a CA, what is shown. */
export type ShownCa = Pick<SigningCa, 'rootHash' | 'fingerprint' | 'notAfterMs'>;

export interface StatusFacts {
  readonly trustDomain: string;
  readonly state: CaState | undefined;
  readonly ca: ShownCa | string;
  readonly desired: ShownCa | string;
  /** We made the CA of the Secret. */
  readonly isOurs: boolean;
  readonly requested: string;
  readonly madeFor: string;
  /** The last request that was answered. */
  readonly heeded: string;
  /** What is wrong besides, though it can sign. */
  readonly besides: string | undefined;
  readonly waiting: readonly Waiting[];
  readonly left: readonly Waiting[];
}

/** Annotations and data of a ConfigMap hold 1 MiB; a person reads the first few. */
const MAX_NODES = 100;

/** JSON; the same for the same facts, so that it is written when it changes only. */
export function statusOf(facts: StatusFacts): string {
  const { state, ca, desired, waiting, left } = facts;
  return JSON.stringify({
    step: state?.step ?? 'none',
    since: state === undefined ? undefined : new Date(state.sinceMs).toISOString(),
    trustDomain: facts.trustDomain,
    issuer: describe(ca),
    next:
      typeof desired === 'object' && typeof ca === 'object' && desired.fingerprint === ca.fingerprint
        ? undefined
        : describe(desired),
    problem: [desired, ca, facts.besides].find((one) => typeof one === 'string'),
    request: requestOf(facts),
    waiting: waiting.slice(0, MAX_NODES),
    waitingMore: Math.max(0, waiting.length - MAX_NODES),
    left: left.slice(0, MAX_NODES),
  });
}

function describe(ca: ShownCa | string): unknown {
  if (typeof ca === 'string') return undefined;
  return { root: ca.rootHash, certificate: ca.fingerprint, notAfter: new Date(ca.notAfterMs).toISOString() };
}

/** What became of what a person asked for. */
function requestOf({ requested, madeFor, heeded, isOurs, state }: StatusFacts): string | undefined {
  if (requested === '') return undefined;
  if (!isOurs)
    return 'refused: Secret culvert-ca was supplied by you; put another CA in it, and the rotation begins by itself';
  if (madeFor === requested) return state?.step === 'steady' ? 'done' : 'under way';
  return heeded === requested
    ? 'over: another CA was put into Secret culvert-ca since; ask again to replace that one'
    : 'waits until the rotation under way is done';
}
