import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { conditionOf } from '../../daemon/cluster/policy-conditions.ts';
import type { PolicyKind } from '../../daemon/cluster/policies.ts';

const ROOT = 'istio-system';

/** `type status/reason: message`. */
function said(kind: PolicyKind, spec: unknown, metadata: object = {}): string {
  const condition = conditionOf(
    kind,
    { metadata: { name: 'p', namespace: 'shop', ...metadata }, spec },
    ROOT,
  );
  assert.ok(condition !== undefined);
  return `${condition.type} ${condition.status}/${condition.reason}: ${condition.message}`;
}
const authorization = (spec: unknown, metadata: object = {}): string =>
  said('AuthorizationPolicy', spec, metadata);
const peer = (spec: unknown, metadata: object = {}): string => said('PeerAuthentication', spec, metadata);
const from = (source: object): object => ({ from: [{ source }] });
const GOOD = from({ namespaces: ['a'] });

describe('the condition of an AuthorizationPolicy', () => {
  const rules = [GOOD];
  const cases: readonly (readonly [string, object, RegExp, object?])[] = [
    ['is accepted', { rules }, /^ZtunnelAccepted True\/Accepted: attached/],
    [
      'says of a dry run that it is one',
      { rules },
      /True\/Accepted: a dry run/,
      { annotations: { 'istio.io/dry-run': 'true' } },
    ],
    [
      'says of allow-nothing that it is',
      {},
      /True\/Accepted: .*spec\.rules: an ALLOW without rules allows nothing/,
    ],
    [
      'says how HTTP is judged',
      { rules: [{ to: [{ operation: { paths: ['/a'] } }] }] },
      /True\/Accepted: .*match no rule with HTTP/,
    ],
    [
      'says how HTTP is judged in a DENY',
      { action: 'DENY', rules: [{ when: [{ key: 'request.headers[a]', values: ['b'] }] }] },
      /True\/Accepted: .*bytes that are not HTTP are denied/,
    ],
    [
      'is not accepted when nothing of it is left',
      { rules: [from({ ipBlocks: ['x'] })] },
      /False\/Invalid: .*ipBlocks/,
    ],
    ['is not accepted when it is no policy', { rules: 'all' }, /False\/Invalid: .*never matches/],
    [
      'is not accepted when it is a DENY that does nothing',
      { action: 'DENY' },
      /False\/Invalid: .*never matches/,
    ],
    ['is accepted in part', { rules: [GOOD, from({})] }, /True\/PartiallyInvalid: spec\.rules\[1\]/],
    [
      'says that CUSTOM is no such thing here',
      { action: 'CUSTOM', provider: { name: 'x' }, rules },
      /False\/UnsupportedValue: .*CUSTOM is not supported: what its rules match is denied/,
    ],
    ['says that AUDIT decides nothing', { action: 'AUDIT', rules }, /False\/UnsupportedValue: AUDIT/],
    [
      'says what needs a token',
      { rules: [from({ requestPrincipals: ['*'] })] },
      /True\/UnsupportedValue: .*requestPrincipals/,
    ],
    [
      'says that there are no waypoints',
      { targetRefs: [{ kind: 'Service', name: 'a' }], rules },
      /^WaypointAccepted False\/AncestorNotBound/,
    ],
  ];
  for (const [what, spec, expected, metadata] of cases)
    it(what, () => assert.match(authorization(spec, metadata), expected));

  it('is bounded, however much is wrong', () => {
    const many = Array.from({ length: 500 }, () => from({ ipBlocks: ['x'.repeat(100)] }));
    assert.ok(authorization({ rules: many }).length < 1_100);
  });
});

describe('the condition of a PeerAuthentication', () => {
  const selector = { matchLabels: { app: 'web' } };
  it('is accepted', () => {
    assert.match(peer({ mtls: { mode: 'STRICT' } }), /^ZtunnelAccepted True\/Accepted/);
    assert.match(peer({ selector: {} }), /True\/Accepted: .*an empty selector is no selector/);
  });
  it('is not accepted when it is none: then it is STRICT', () => {
    assert.match(peer({ mtls: { mode: 'strict' } }), /False\/Invalid: .*counts as STRICT/);
  });
  it('is accepted in part when ports are ignored', () => {
    assert.match(peer({ selector, portLevelMtls: { http: {} } }), /True\/PartiallyInvalid: .*no port/);
  });
  it('is not accepted with a selector in the root namespace, where it is ignored', () => {
    assert.match(peer({ selector }, { namespace: ROOT }), /False\/Invalid: .*ignored/);
    assert.match(peer({}, { namespace: ROOT }), /True\/Accepted/);
  });
});
