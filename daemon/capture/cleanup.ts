/** Takes everything of ours out of a node's kernel without a daemon and without an API: `culvert cleanup --node`. */
import { KernelState } from './programs.ts';

export interface CleanupResult {
  readonly removed: readonly string[];
  /** What could not be removed, each with the reason. */
  readonly left: readonly string[];
}

/**
 * Detaches and unpins every program and map of ours below `bpffs`, of every layout. Pods' traffic goes in the clear
 * from then on, and a daemon that still runs has lost its hold.
 */
export function cleanupNode(options: { readonly nodeName: string; readonly bpffs: string }): CleanupResult {
  try {
    return { removed: KernelState.remove(options.bpffs), left: [] };
  } catch (error) {
    return {
      removed: [],
      left: [`${options.bpffs}: ${error instanceof Error ? error.message : String(error)}`],
    };
  }
}
