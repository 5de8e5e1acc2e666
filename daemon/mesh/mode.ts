/** What a workload demands of its clients: one function, so that everyone who asks gets the same answer. */
import type { Port } from './ids.ts';
import type { MtlsMode, Workload } from './model.ts';
import { refText } from './policy/ref.ts';
import type { PeerDecision } from './policy/peer.ts';
import { peerMode } from './policy/peer.ts';
import type { MeshState } from './state.ts';

/**
 * The mTLS mode of one port of a workload: its PeerAuthentications', else config `defaultMode`. A pod that is known to
 * have no mesh label demands nothing.
 */
export function mode(state: MeshState, workload: Workload, port: Port): MtlsMode {
  return decideMode(state, workload, port).mode;
}

/** The same, with the object that says so. */
export function decideMode(state: MeshState, workload: Workload, port: Port): PeerDecision {
  if (state.labelling(workload) === 'absent') return { mode: 'permissive', by: undefined };
  return peerMode(state.policies.levelsOf(workload), port, state.settings.defaultMode);
}

/** `PeerAuthentication shop/default`, or that it is the mesh's default. */
export function whose({ by }: PeerDecision): string {
  return by === undefined ? "the mesh's default" : refText(by);
}
