/**
 * A pod's life with us (DESIGN.md 3a) as one pure function: from where a pod is and what is true now to where it is
 * next, and what that asks of the kernel. enrolment.ts makes it so.
 */
import type { PodState, PublishedState } from '../mesh/model.ts';

export type Phase =
  | { readonly state: 'none' }
  | { readonly state: 'pending'; readonly sinceMs: number }
  /** `wasEnrolled`: a daemon before us enrolled it; its promise stands meanwhile, since all that is closed stays so. */
  | { readonly state: 'opening'; readonly sinceMs: number; readonly wasEnrolled: boolean }
  /** `publishedMs`: since when its outbound is captured and its peers may tunnel to it. */
  | { readonly state: 'joining'; readonly sinceMs: number; readonly publishedMs: number | undefined }
  | { readonly state: 'enrolled'; readonly sinceMs: number }
  /** `redirected`: still inside leaveWait, so that peers stop tunnelling first. */
  | { readonly state: 'leaving'; readonly sinceMs: number; readonly redirected: boolean };

export interface PodFacts {
  /** The label says so, the pod can be enrolled and is not over. */
  readonly wanted: boolean;
  /** Its sandbox runs: its namespace is known, though it may have no address yet. */
  readonly hasNetns: boolean;
  /** It was running, not captured, when it became wanted. */
  readonly wasRunning: boolean;
  /** A daemon before us enrolled it, and its capture has stood ever since. */
  readonly wasEnrolled: boolean;
  /** A usable certificate of its identity is with the workers. */
  readonly certificate: boolean;
  /** The pod has an address, and every live worker accepts on every listener of it. */
  readonly listening: boolean;
  readonly nowMs: number;
}

export interface Timing {
  readonly joinWait: number;
  readonly leaveWait: number;
  readonly leaveGrace: number;
}

/** Where the pod goes from `phase`; the same object when nothing changes. */
export function nextPhase(phase: Phase, facts: PodFacts, timing: Timing): Phase {
  const { nowMs } = facts;
  switch (phase.state) {
    case 'none':
      if (facts.wanted) return entry(facts);
      // Its label went while no daemon ran: its peers are told before its redirection goes.
      return facts.wasEnrolled && facts.hasNetns
        ? { state: 'leaving', sinceMs: nowMs, redirected: true }
        : phase;
    case 'pending':
      if (!facts.wanted) return { state: 'none' };
      return facts.hasNetns ? { state: 'opening', sinceMs: nowMs, wasEnrolled: false } : phase;
    case 'opening':
      if (!facts.wanted) return { state: 'leaving', sinceMs: nowMs, redirected: true };
      return facts.certificate && facts.listening ? { state: 'enrolled', sinceMs: nowMs } : phase;
    case 'joining':
      return nextOfJoining(phase, facts, timing);
    case 'enrolled':
      return facts.wanted ? phase : { state: 'leaving', sinceMs: nowMs, redirected: true };
    case 'leaving':
      return nextOfLeaving(phase, facts, timing);
  }
}

function entry(facts: PodFacts): Phase {
  const sinceMs = facts.nowMs;
  if (facts.wasRunning) return { state: 'joining', sinceMs, publishedMs: undefined };
  return facts.hasNetns
    ? { state: 'opening', sinceMs, wasEnrolled: facts.wasEnrolled }
    : { state: 'pending', sinceMs };
}

function nextOfJoining(phase: Phase & { state: 'joining' }, facts: PodFacts, timing: Timing): Phase {
  const { nowMs } = facts;
  if (!facts.wanted) return { state: 'leaving', sinceMs: nowMs, redirected: true };
  if (phase.publishedMs === undefined)
    return facts.certificate && facts.listening ? { ...phase, publishedMs: nowMs } : phase;
  return nowMs - phase.publishedMs >= timing.joinWait ? { state: 'enrolled', sinceMs: nowMs } : phase;
}

function nextOfLeaving(phase: Phase & { state: 'leaving' }, facts: PodFacts, timing: Timing): Phase {
  const { nowMs } = facts;
  // Labelled again: it joins once more, captured from the start when its redirection never went off.
  if (facts.wanted)
    return {
      state: 'joining',
      sinceMs: nowMs,
      publishedMs: phase.redirected && facts.certificate ? nowMs : undefined,
    };
  const left = nowMs - phase.sinceMs;
  if (phase.redirected) return left >= timing.leaveWait ? { ...phase, redirected: false } : phase;
  return left >= timing.leaveWait + timing.leaveGrace ? { state: 'none' } : phase;
}

/** What a phase asks of the kernel and the workers. */
export interface Facets {
  /** Refuse connects and drop SYNs by cgroup: the netns is not known yet. */
  readonly guard: boolean;
  /** Port 15008 goes to our mTLS listeners. */
  readonly hbone: boolean;
  /** All other inbound goes to our plaintext listeners. */
  readonly steer: boolean;
  /** Outbound connects go to our outbound listeners. */
  readonly capture: boolean;
}

const NOTHING: Facets = { guard: false, hbone: false, steer: false, capture: false };
const EVERYTHING: Facets = { guard: false, hbone: true, steer: true, capture: true };

export function facetsOf(phase: Phase): Facets {
  switch (phase.state) {
    case 'none':
      return NOTHING;
    case 'pending':
      return { ...NOTHING, guard: true };
    case 'opening':
    case 'enrolled':
      return EVERYTHING;
    case 'joining':
      return { ...EVERYTHING, capture: phase.publishedMs !== undefined };
    case 'leaving':
      return phase.redirected ? EVERYTHING : { ...NOTHING, hbone: true };
  }
}

/** What other nodes are told; undefined: nothing. Only 'enrolled' makes a peer tunnel. */
export function publishedOf(phase: Phase): PublishedState['state'] | undefined {
  switch (phase.state) {
    case 'none':
    case 'pending':
      return undefined;
    case 'opening':
      return phase.wasEnrolled ? 'enrolled' : undefined;
    case 'joining':
      return phase.publishedMs === undefined ? 'joining' : 'enrolled';
    case 'enrolled':
    case 'leaving':
      return phase.state;
  }
}

/** When `phase` can change by time alone, ms since the epoch; undefined: never. */
export function nextDeadline(phase: Phase, timing: Timing): number | undefined {
  if (phase.state === 'joining' && phase.publishedMs !== undefined)
    return phase.publishedMs + timing.joinWait;
  if (phase.state !== 'leaving') return undefined;
  return phase.sinceMs + timing.leaveWait + (phase.redirected ? 0 : timing.leaveGrace);
}

/** The phase's name for people; a pod that only waits for its certificate to join says so in its reason. */
export function reasonOf(
  phase: Phase,
  facts: Pick<PodFacts, 'certificate' | 'hasNetns'>,
): string | undefined {
  switch (phase.state) {
    case 'none':
    case 'enrolled':
      return undefined;
    case 'pending':
      return "PENDING_SANDBOX: the pod's sandbox has not started or has no address yet";
    case 'opening':
      return facts.certificate
        ? 'OPENING: listeners are being opened'
        : 'OPENING_NO_CERTIFICATE: connections are held until the certificate arrives';
    case 'joining':
      if (phase.publishedMs !== undefined)
        return 'JOINING: peers are being told; plaintext is still accepted';
      return facts.certificate
        ? 'JOINING: listeners are being opened'
        : 'JOINING_NO_CERTIFICATE: nothing is promised until its certificate arrives';
    case 'leaving':
      return phase.redirected ? 'LEAVING: peers are being told' : 'LEAVING: older tunnels may finish';
  }
}

/** True for the states whose promise holds or is on its way. */
export function isOurs(state: PodState): boolean {
  return state !== 'none' && state !== 'unenrollable';
}
