/**
 * How one root takes another's place with no failed handshake; pure. Each step begins when every node has said that it
 * has done the one before:
 *
 *   steady ──another CA──▶ trust ────▶ reissue ────▶ retire ────▶ steady
 *                          both roots   the new CA    the old root
 *                          are trusted  signs         is trusted no more
 *
 * All that a walk needs is in `CaState`, which is stored before it takes effect: whoever reads it goes on from there.
 */
import { bundleHash, rootHashes, unionOf } from '../bundle.ts';
import type { IssuerPems, SigningCa } from './issuer.ts';

export type Step = 'steady' | 'trust' | 'reissue' | 'retire';

/** What is stored. */
export interface CaState {
  readonly step: Step;
  readonly sinceMs: number;
  /** What signs now; undefined when its key is lost: nothing is signed until the new CA is trusted everywhere. */
  readonly active: IssuerPems | undefined;
  /** The published trust bundle, PEM. */
  readonly bundlePem: string;
}

/** Of a CA, what decides. `rootHash` is '' where nobody knows which of several roots signs. */
export type CaFacts = Pick<SigningCa, 'pems' | 'fingerprint' | 'rootsPem' | 'rootHash'>;

/** What one daemon's pod says of its node. */
export interface NodeReport {
  readonly node: string;
  readonly pod: string;
  /** Hash of the bundle in use there; undefined when it has not said. */
  readonly bundle: string | undefined;
  /** Certificates in use there by their root's hash; undefined when it has not said. */
  readonly issuers: Readonly<Record<string, number>> | undefined;
  /** Since when the node is not Ready, wall clock ms; undefined when it is. */
  readonly notReadySinceMs: number | undefined;
}

export interface RotationWorld {
  readonly state: CaState;
  /** `state.active`, read. */
  readonly active: CaFacts | undefined;
  /** The CA of Secret culvert-ca. */
  readonly desired: CaFacts;
  readonly reports: readonly NodeReport[];
  readonly nowMs: number;
}

export interface Waiting {
  readonly node: string;
  readonly why: string;
}

export type Walk =
  /** Store this, then let it take effect. */
  | { readonly type: 'go'; readonly state: CaState; readonly left: readonly Waiting[] }
  /** Nothing to do until a node says more; `waiting` is empty when all is steady. */
  | { readonly type: 'stay'; readonly waiting: readonly Waiting[]; readonly left: readonly Waiting[] };

/** A node that is not Ready for so long leaves the gate. */
export const LEAVES_GATE_MS = 600_000;

/** The state of a mesh that has none yet. `publishedPem`: roots that were published before, which nodes may still use. */
export function firstState(desired: CaFacts, publishedPem: string, nowMs: number): CaState {
  const bundlePem = unionOf(publishedPem, desired.rootsPem);
  const isNew = bundleHash(bundlePem) === bundleHash(desired.rootsPem);
  return isNew
    ? { step: 'steady', sinceMs: nowMs, active: desired.pems, bundlePem }
    : { step: 'trust', sinceMs: nowMs, active: undefined, bundlePem };
}

/** What follows from the world as it is: at most one step. */
export function nextStep(world: RotationWorld): Walk {
  const { state, active, desired, nowMs } = world;
  const both = unionOf(state.bundlePem, desired.rootsPem);
  const isOther = desired.fingerprint !== active?.fingerprint;
  const isTrusted = bundleHash(both) === bundleHash(state.bundlePem);
  const go = (change: Partial<CaState>): Walk => ({
    type: 'go',
    state: { ...state, sinceMs: nowMs, ...change },
    left: gate(world, () => undefined).left,
  });
  // A root that some node may not know yet, whenever it comes: first it is trusted everywhere.
  if (!isTrusted) return go({ step: 'trust', bundlePem: both });
  switch (state.step) {
    case 'steady':
      if (isOther && desired.rootHash === active?.rootHash) return go({ active: desired.pems });
      if (isOther) return go({ step: 'trust' });
      // A root was taken out of ca.crt.
      return bundleHash(state.bundlePem) === bundleHash(desired.rootsPem)
        ? stay([], [])
        : go({ step: 'reissue' });
    case 'trust':
      return through(world, hasBundle(state.bundlePem), () => go({ step: 'reissue', active: desired.pems }));
    case 'reissue':
      if (isOther) return go({ step: 'trust' });
      return through(world, hasOnly(state.bundlePem, desired), () =>
        go({ step: 'retire', bundlePem: desired.rootsPem }),
      );
    case 'retire':
      if (isOther) return go({ step: 'trust' });
      return through(world, hasBundle(state.bundlePem), () => go({ step: 'steady' }));
  }
}

function stay(waiting: readonly Waiting[], left: readonly Waiting[]): Walk {
  return { type: 'stay', waiting, left };
}

/** Why a node holds a step up, or undefined. */
type Judge = (report: NodeReport) => string | undefined;

function through(world: RotationWorld, judge: Judge, onOpen: () => Walk): Walk {
  const { waiting, left } = gate(world, judge);
  return waiting.length === 0 ? onOpen() : stay(waiting, left);
}

function gate(
  { reports, nowMs }: RotationWorld,
  judge: Judge,
): { readonly waiting: readonly Waiting[]; readonly left: readonly Waiting[] } {
  const waiting: Waiting[] = [];
  const left: Waiting[] = [];
  for (const report of reports) {
    const { node, notReadySinceMs } = report;
    const awayMs = notReadySinceMs === undefined ? 0 : nowMs - notReadySinceMs;
    if (awayMs >= LEAVES_GATE_MS)
      left.push({ node, why: `not Ready for ${Math.floor(awayMs / 60_000)} minutes: not waited for` });
    else {
      const why = judge(report);
      if (why !== undefined) waiting.push({ node, why });
    }
  }
  return { waiting, left };
}

function hasBundle(bundlePem: string): Judge {
  const wanted = bundleHash(bundlePem);
  return ({ bundle, pod }) => {
    if (bundle === wanted) return undefined;
    return bundle === undefined
      ? `pod ${pod} has not said which roots it trusts`
      : `pod ${pod} trusts other roots still`;
  };
}

function hasOnly(bundlePem: string, { rootHash, rootsPem }: CaFacts): Judge {
  const judgeBundle = hasBundle(bundlePem);
  const staying = rootHash === '' ? rootHashes(rootsPem) : [rootHash];
  return (report) => {
    const { issuers, pod } = report;
    if (issuers === undefined) return `pod ${pod} has not said whose certificates it uses`;
    const old = Object.entries(issuers).reduce(
      (sum, [hash, n]) => (staying.includes(hash) ? sum : sum + n),
      0,
    );
    return old > 0 ? `pod ${pod} still uses ${old} certificates of another root` : judgeBundle(report);
  };
}
