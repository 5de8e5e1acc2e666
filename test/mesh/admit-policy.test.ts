/** What policies change in the inbound decision: the mode of a port, and who may come. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { admit, admitContent } from '../../daemon/mesh/admit.ts';
import type { AdmitRequest, AdmitVerdict } from '../../daemon/mesh/admit.ts';
import { parseSpiffeId } from '../../daemon/mesh/ids.ts';
import type { Delta } from '../../daemon/mesh/model.ts';
import { refText } from '../../daemon/mesh/policy/ref.ts';
import type { HttpRequest } from '../../daemon/mesh/policy/model.ts';
import { ip, pod, port, stateOf, told } from './world.ts';

const server = pod('server', '10.244.2.7', { labels: { app: 'server' } });
const known = [told.pod(server), told.namespace('shop', 'enabled')];
const FRONT = parseSpiffeId('spiffe://cluster.local/ns/shop/sa/front');
const OTHER = parseSpiffeId('spiffe://cluster.local/ns/bank/sa/other');
const plain = { viaHbone: false, peer: undefined };
const onlyFront = { rules: [{ from: [{ source: { principals: ['cluster.local/ns/shop/sa/front'] } }] }] };
const get: HttpRequest = { method: 'GET', path: '/api/1', host: 'server', headers: new Map() };

function request(over: Partial<AdmitRequest> = {}): AdmitRequest {
  return {
    pod: server,
    podState: 'enrolled',
    ownPorts: [],
    targetIp: ip('10.244.2.7'),
    targetPort: port(8080),
    sourceIp: ip('10.244.1.5'),
    peer: FRONT,
    viaHbone: true,
    ...over,
  };
}

const ask = (deltas: readonly Delta[], over: Partial<AdmitRequest> = {}): AdmitVerdict =>
  admit(stateOf([...known, ...deltas]), request(over));
const brief = ({ kind, reason, by }: AdmitVerdict): string => `${kind} ${reason} ${by ? refText(by) : '-'}`;

describe('the mode of a port', () => {
  const strict = { mtls: { mode: 'STRICT' } };

  it('is STRICT for the mesh, a namespace, a workload or a port, and the record says by which object', () => {
    const all = told.peerAuthentication('istio-system', 'default', strict);
    const namespace = told.peerAuthentication('shop', 'default', strict);
    const permissive = told.peerAuthentication('shop', 'default', { mtls: { mode: 'PERMISSIVE' } });
    const workload = told.peerAuthentication('shop', 'server', {
      selector: { matchLabels: { app: 'server' } },
      portLevelMtls: { 9090: { mode: 'STRICT' } },
    });
    const elsewhere = told.peerAuthentication('bank', 'default', strict);
    assert.equal(brief(ask([elsewhere], plain)), 'allow PLAINTEXT_ACCEPTED -');
    assert.equal(brief(ask([all], plain)), 'refuse PLAINTEXT_DENIED PeerAuthentication istio-system/default');
    assert.equal(brief(ask([namespace], plain)), 'refuse PLAINTEXT_DENIED PeerAuthentication shop/default');
    assert.equal(brief(ask([all, permissive], plain)), 'allow PLAINTEXT_ACCEPTED -');
    assert.equal(brief(ask([workload], plain)), 'allow PLAINTEXT_ACCEPTED -');
    assert.equal(
      brief(ask([workload], { ...plain, targetPort: port(9090) })),
      'refuse PLAINTEXT_DENIED PeerAuthentication shop/server',
    );
    assert.equal(brief(ask([all])), 'allow OK -');
  });

  it('lets no ALLOW bring plaintext in', () => {
    const all = [
      told.peerAuthentication('shop', 'default', strict),
      told.policy('shop', 'all', { rules: [{}] }),
    ];
    assert.equal(ask(all, plain).reason, 'PLAINTEXT_DENIED');
  });
});

describe('AuthorizationPolicy at L4', () => {
  it('lets in whom an ALLOW names by the identity that was proven, and names the rule', () => {
    const deltas = [told.policy('shop', 'front', onlyFront)];
    assert.equal(brief(ask(deltas)), 'allow OK AuthorizationPolicy shop/front rule 0');
    assert.equal(brief(ask(deltas, { peer: OTHER })), 'refuse POLICY_DENIED -');
    // PERMISSIVE plaintext is asked too, and has no identity: what it claims is not looked at.
    assert.equal(brief(ask(deltas, plain)), 'refuse POLICY_DENIED -');
    assert.equal(brief(ask(deltas, { viaHbone: false })), 'refuse POLICY_DENIED -');
  });

  it('judges by source address, destination address and port', () => {
    const deny = (rule: unknown): readonly Delta[] => [
      told.policy('shop', 'no', { action: 'DENY', rules: [rule] }),
    ];
    const from = deny({ from: [{ source: { ipBlocks: ['10.244.1.0/24'] } }] });
    assert.equal(brief(ask(from)), 'refuse POLICY_DENIED AuthorizationPolicy shop/no rule 0');
    assert.equal(brief(ask(from, plain)), 'refuse POLICY_DENIED AuthorizationPolicy shop/no rule 0');
    assert.equal(ask(from, { sourceIp: ip('10.244.3.5') }).kind, 'allow');
    const to = deny({ to: [{ operation: { ports: ['8080'] } }] });
    assert.equal(ask(to).reason, 'POLICY_DENIED');
    assert.equal(ask(to, { targetPort: port(8081) }).kind, 'allow');
    const at = deny({ when: [{ key: 'destination.ip', values: ['10.244.2.7'] }] });
    assert.equal(ask(at).reason, 'POLICY_DENIED');
  });

  it('leaves plaintext to a joining or leaving pod alone, and judges tunnels to it', () => {
    const deltas = [
      told.policy('shop', 'none', {}),
      told.peerAuthentication('shop', 'd', { mtls: { mode: 'STRICT' } }),
    ];
    for (const podState of ['joining', 'leaving'] as const) {
      assert.equal(ask(deltas, { ...plain, podState }).kind, 'allow');
      assert.equal(brief(ask(deltas, { podState })), 'refuse POLICY_DENIED -');
    }
  });

  it('holds a tunnel to a pod whose labels are not known yet: nobody knows which policies are its', () => {
    const verdict = admit(stateOf([told.namespace('shop', 'enabled')]), request());
    assert.equal(brief(verdict), 'hold POD_NOT_READY -');
  });

  it('says what dry-run policies would have done, and does not do it', () => {
    const dry = { 'istio.io/dry-run': 'true' };
    const deny = told.policy('shop', 'dry', { action: 'DENY', rules: [{}] }, dry);
    const denied = ask([deny]);
    assert.equal(brief(denied), 'allow OK -');
    assert.equal(denied.dryRun?.verdict, 'deny');
    assert.equal(denied.dryRun.text, 'AuthorizationPolicy shop/dry rule 0');
    const allow = told.policy('shop', 'dry', onlyFront, dry);
    assert.equal(ask([allow]).dryRun?.verdict, 'allow');
    assert.equal(ask([allow], { peer: OTHER }).dryRun?.verdict, 'deny');
    assert.equal(ask([allow], { peer: OTHER }).kind, 'allow');
  });
});

describe('policies that look at requests', () => {
  const http = told.policy('shop', 'api', {
    rules: [{ to: [{ operation: { methods: ['GET'], paths: ['/api/*'], ports: ['8080'] } }] }],
  });

  it('let a connection be looked into, on their ports only', () => {
    assert.deepEqual([ask([http]).kind, ask([http]).needsLook], ['allow', true]);
    const elsewhere = ask([http], { targetPort: port(9090) });
    assert.deepEqual([elsewhere.reason, elsewhere.needsLook], ['POLICY_DENIED', undefined]);
  });

  it('decide on each request, and on bytes that are not HTTP', () => {
    const state = stateOf([...known, http]);
    const judge = (content: HttpRequest | undefined): string =>
      brief(admitContent(state, request(), { http: content, sni: undefined }));
    assert.equal(judge(get), 'allow OK AuthorizationPolicy shop/api rule 0');
    assert.equal(judge({ ...get, method: 'PUT' }), 'refuse POLICY_DENIED -');
    assert.equal(judge(undefined), 'refuse POLICY_DENIED -');
  });

  it('refuse at once what a DENY without HTTP content denies, whatever it carries', () => {
    const deny = told.policy('shop', 'no', {
      action: 'DENY',
      rules: [
        { to: [{ operation: { methods: ['PUT'] } }] },
        { from: [{ source: { namespaces: ['bank'] } }] },
      ],
    });
    assert.equal(ask([deny]).needsLook, true);
    assert.equal(
      brief(ask([deny], { peer: OTHER })),
      'refuse POLICY_DENIED AuthorizationPolicy shop/no rule 1',
    );
  });

  it('are asked for the server name of TLS that passes through', () => {
    const sni = told.policy('shop', 'sni', {
      rules: [{ when: [{ key: 'connection.sni', values: ['db.shop'] }] }],
    });
    assert.equal(ask([sni]).needsLook, true);
    const state = stateOf([...known, sni]);
    const judge = (name: string | undefined): string =>
      admitContent(state, request(), { http: undefined, sni: name }).kind;
    assert.deepEqual([judge('db.shop'), judge('web.shop'), judge(undefined)], ['allow', 'refuse', 'refuse']);
  });

  it('are read for when they are dry runs, and then decide nothing', () => {
    const dry = told.policy(
      'shop',
      'dry',
      { action: 'DENY', rules: [{ to: [{ operation: { paths: ['/api/*'] } }] }] },
      { 'istio.io/dry-run': 'true' },
    );
    assert.deepEqual([ask([dry]).kind, ask([dry]).needsLook], ['allow', true]);
    const state = stateOf([...known, dry]);
    const api = admitContent(state, request(), { http: get, sni: undefined });
    assert.deepEqual([api.kind, api.dryRun?.verdict], ['allow', 'deny']);
    const other = admitContent(state, request(), { http: { ...get, path: '/' }, sni: undefined });
    assert.deepEqual([other.kind, other.dryRun], ['allow', undefined]);
  });
});
