/** Counts of what policies have decided in this worker, until they are taken to the main thread's metrics. */
import type { AdmitVerdict } from '../mesh/admit.ts';
import type { RuleRef } from '../mesh/policy/model.ts';
import type { PolicyDecisions } from '../mesh/wiring.ts';

type Counted = PolicyDecisions['verdict'];

export class Decisions {
  /** As many entries as policies have decided since `take`. */
  readonly #counts = new Map<string, { readonly policy: string; readonly verdict: Counted; count: number }>();

  /** One decision on a connection, a request, or bytes that are not HTTP. */
  note({ kind, reason, by, dryRun }: AdmitVerdict): void {
    if (reason === 'POLICY_DENIED') this.#add(by, 'deny');
    else if (kind === 'allow' && by !== undefined) this.#add(by, 'allow');
    if (dryRun !== undefined) this.#add(dryRun.by, `dry_run_${dryRun.verdict}`);
  }

  take(): readonly PolicyDecisions[] {
    const taken = [...this.#counts.values()];
    this.#counts.clear();
    return taken;
  }

  #add(by: RuleRef | undefined, verdict: Counted): void {
    const policy = by === undefined ? '-' : `${by.namespace}/${by.name}`;
    const key = `${policy} ${verdict}`;
    const known = this.#counts.get(key);
    if (known === undefined) this.#counts.set(key, { policy, verdict, count: 1 });
    else known.count += 1;
  }
}
