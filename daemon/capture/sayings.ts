/**
 * What this node says of its pods: to other nodes the state that they decide by, to people why a pod is not (simply)
 * enrolled. A reason is told when it has lasted: a pod that starts goes through several in a second, and each would be a
 * write.
 */
import type { PodUid } from '../mesh/ids.ts';
import type { PodSaying, PodState, PublishedState } from '../mesh/model.ts';
import type { PodStatus } from '../mesh/wiring.ts';

/** A reason that has stood for so long is no passing one. */
const LASTING_MS = 5_000;
/** Between two texts of one kind of reason: an error may have another number in it each time. */
const REWORD_MS = 30_000;
const MAX_REASON = 256;
/** Told by no state of their own: peers know a pod that has ended, and one that leaves says enough. */
const UNSAID: ReadonlySet<string> = new Set(['FINISHED', 'LEAVING']);

interface Told {
  readonly state: PodState;
  readonly code: string;
  readonly sinceMs: number;
  readonly reason: string;
  readonly rewordedMs: number;
}

export class Sayings {
  readonly #told = new Map<PodUid, Told>();
  readonly #nowMs: () => number;

  /** `nowMs`: monotonic. */
  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  /** `published`: what other nodes are to know; `statuses`: of every pod that is ours or ought to be. */
  of(published: readonly PublishedState[], statuses: readonly PodStatus[]): PodSaying[] {
    const promises = new Map(published.map((state) => [state.uid, state]));
    const reasons = new Map(statuses.map((status) => [status.uid, this.#lasting(status)]));
    for (const uid of this.#told.keys()) if (!reasons.has(uid)) this.#told.delete(uid);
    const sayings = published.map((state) => withReason(state, reasons.get(state.uid)));
    for (const { uid, state, sinceMs } of statuses) {
      const reason = reasons.get(uid);
      // Nothing is promised of these: a reader that decides takes them for silence.
      if (reason !== undefined && !promises.has(uid)) sayings.push({ uid, state, sinceMs, reason });
    }
    return sayings;
  }

  #lasting({ uid, state, reason }: PodStatus): string | undefined {
    const code = /^[A-Z0-9_]+/.exec(reason ?? '')?.[0] ?? '';
    if (reason === undefined || UNSAID.has(code)) {
      this.#told.delete(uid);
      return undefined;
    }
    const nowMs = this.#nowMs();
    const before = this.#told.get(uid);
    const isSame = before?.code === code && before.state === state;
    if (!isSame || nowMs - before.rewordedMs >= REWORD_MS) {
      const sinceMs = isSame ? before.sinceMs : nowMs;
      this.#told.set(uid, { state, code, sinceMs, reason: fit(reason), rewordedMs: nowMs });
    }
    const told = this.#told.get(uid);
    return told !== undefined && nowMs - told.sinceMs >= LASTING_MS ? told.reason : undefined;
  }
}

function withReason(state: PublishedState, reason: string | undefined): PodSaying {
  return reason === undefined ? state : { ...state, reason };
}

/** Short and on one line: an error's text may hold what an application or a server wrote. */
function fit(reason: string): string {
  const printable = reason.slice(0, MAX_REASON + 1).replace(/[^\x20-\x7e]/g, '?');
  return printable.length <= MAX_REASON ? printable : `${printable.slice(0, MAX_REASON - 3)}...`;
}
