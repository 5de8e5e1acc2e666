/** Which ports our listeners take in a pod (DESIGN.md section 3). Pure. */
import type { Port } from '../mesh/ids.ts';

export interface PortRules {
  readonly min: number;
  readonly max: number;
  /** The pod's `ip_local_port_range`: an ephemeral port of ours would collide with an app's later bind. */
  readonly ephemeral: { readonly low: number; readonly high: number } | undefined;
  /** Declared containerPorts, and ports of ours in this pod already. */
  readonly taken: ReadonlySet<number>;
}

/** The ports to try, in order. Those inside the ephemeral range come last: better one of them than no listener. */
export function* candidatePorts(rules: PortRules): Generator<Port> {
  const isEphemeral = (port: number): boolean =>
    rules.ephemeral !== undefined && port >= rules.ephemeral.low && port <= rules.ephemeral.high;
  for (const wantEphemeral of [false, true]) {
    for (let port = rules.min; port <= rules.max; port++)
      if (!rules.taken.has(port) && isEphemeral(port) === wantEphemeral) yield port as Port;
  }
}
