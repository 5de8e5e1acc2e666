/** How records, metrics and people name what decided. */
import type { RuleRef } from './model.ts';

/** `AuthorizationPolicy shop/backend rule 0`, `PeerAuthentication shop/default`. */
export function refText({ kind, namespace, name, rule }: RuleRef): string {
  return `${kind} ${namespace}/${name}${rule === undefined ? '' : ` rule ${rule}`}`;
}
