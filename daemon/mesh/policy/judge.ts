/** Both questions in their order: does the port take this client at all, and do the policies allow it. Pure. */
import { evaluate } from './evaluate.ts';
import type { PolicyRequest, PolicyTarget, RuleRef } from './model.ts';
import { peerMode } from './peer.ts';
import type { PolicyStore } from './store.ts';

export interface Judgement {
  readonly verdict: 'allow' | 'deny';
  readonly by: RuleRef | undefined;
  readonly why: string;
}

/** STRICT goes before every AuthorizationPolicy: no ALLOW lets plaintext in (SEMANTICS.md 2.1). */
export function judge(
  store: PolicyStore,
  target: PolicyTarget,
  request: PolicyRequest,
  defaultMode: 'strict' | 'permissive',
): Judgement {
  const { mode, by } = peerMode(store.levelsOf(target), request.destinationPort, defaultMode);
  if (mode === 'strict' && request.peer === undefined) {
    const whose = by === undefined ? "the mesh's default" : `${by.namespace}/${by.name}`;
    const why = `port ${request.destinationPort} is STRICT by ${whose}, and the client has no identity`;
    return { verdict: 'deny', by, why };
  }
  return evaluate(store.policiesOf(target), request);
}
