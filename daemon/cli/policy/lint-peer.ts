/** A PeerAuthentication that was read: what it really does. */
import type { PeerAuthentication } from '../../mesh/policy/model.ts';
import type { Say } from './finding.ts';
import { lintScope } from './lint-policy.ts';
import type { LintFacts } from './lint-policy.ts';
import { strangePort } from './lint-ports.ts';

/** Says what an accepted object does that one may not expect. */
export function lintPeer(peer: PeerAuthentication, facts: LintFacts, say: Say): void {
  const { mesh, world } = facts;
  const isRoot = peer.namespace === mesh.rootNamespace;
  const mode = ['spec', 'mtls', 'mode'];
  if (isRoot && peer.selector !== undefined) {
    say('warning', ['spec', 'selector'], `a selector in the root namespace: the whole object is ignored`);
    return;
  }
  if (isRoot)
    say('note', ['metadata', 'namespace'], `${peer.namespace} is the root namespace: for all namespaces`);
  const scope = { namespace: isRoot ? undefined : peer.namespace, selector: peer.selector ?? {} };
  lintScope(peer.namespace, scope, peer.selector !== undefined, facts, say);
  const ports = Object.entries(peer.ports);
  if (peer.mode === 'UNSET')
    say(
      'note',
      mode,
      `${ports.length > 0 ? 'no mode but that of ports' : 'no mode'}: inherited from the wider level`,
    );
  if (peer.mode === 'DISABLE') say('warning', mode, DISABLE);
  for (const [text, portMode] of ports) {
    const path = ['spec', 'portLevelMtls', text];
    if (portMode === 'DISABLE') say('warning', path, DISABLE);
    const strange = strangePort(scope, world, Number(text));
    if (strange !== undefined) say('warning', path, strange);
  }
  const winner = winnerOver(peer, facts.peers, isRoot);
  if (winner !== undefined)
    say(
      'warning',
      ['metadata', 'name'],
      `${winner.name} is for the same and older (or before it by name): this one is ignored`,
    );
}

const DISABLE = 'DISABLE is taken as PERMISSIVE: plaintext is accepted, and so is mutual TLS';

/** Of objects at one level the oldest alone counts (SEMANTICS.md 2.1). */
function winnerOver(
  peer: PeerAuthentication,
  all: readonly PeerAuthentication[],
  isRoot: boolean,
): PeerAuthentication | undefined {
  return all.find(
    (one) =>
      one.namespace === peer.namespace &&
      one.name !== peer.name &&
      isSame(one.selector, peer.selector) &&
      !(isRoot && one.selector !== undefined) &&
      (one.createdMs < peer.createdMs || (one.createdMs === peer.createdMs && one.name < peer.name)),
  );
}

function isSame(
  a: Readonly<Record<string, string>> | undefined,
  b: Readonly<Record<string, string>> | undefined,
): boolean {
  const [first, second] = [Object.entries(a ?? {}), b ?? {}];
  return first.length === Object.keys(second).length && first.every(([key, value]) => second[key] === value);
}
