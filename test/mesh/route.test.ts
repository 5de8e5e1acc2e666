import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import type { Ip, Port } from '../../daemon/mesh/ids.ts';
import { mode as modeOf } from '../../daemon/mesh/mode.ts';
import type { Delta, MeshSettings, PublishedState, Workload } from '../../daemon/mesh/model.ts';
import { isInside } from '../../daemon/mesh/ranges.ts';
import { route } from '../../daemon/mesh/route.ts';
import type { RouteVerdict } from '../../daemon/mesh/verdict.ts';
import {
  anyHistory,
  anyPodUid,
  anyRandom,
  anyTarget,
  endpoint,
  ip,
  node,
  pod,
  port,
  RANGES,
  service,
  slice,
  stateOf,
  told,
} from './world.ts';

const client = pod('client', '10.244.1.5', { node: 'node-a', namespace: 'shop' });
const server = pod('server', '10.244.2.7');
const ranges = told.node(node('node-b', { podCidrs: ['10.244.2.0/24'] }));
const labelled = told.namespace('shop', 'enabled');
const strict: Partial<MeshSettings> = { defaultMode: 'strict' };
const base = [told.pod(client), told.pod(server), ranges];

function ask(
  deltas: readonly Delta[],
  to: string,
  options: { over?: Partial<MeshSettings>; toPort?: number; random?: number; from?: Workload } = {},
): RouteVerdict {
  const state = stateOf([...base, ...deltas], options.over);
  const { toPort = 8080, random = 0, from = client } = options;
  return route(state, from, ip(to), port(toPort), () => random);
}

function brief(verdict: RouteVerdict): string {
  return `${verdict.kind} ${verdict.reason}`;
}

describe('route to a pod', () => {
  it('tunnels to an enrolled pod and says who must answer', () => {
    const verdict = ask([labelled, told.published(server, 'enrolled')], '10.244.2.7');
    assert.equal(verdict.kind, 'tunnel');
    assert.equal(verdict.identity, 'spiffe://cluster.local/ns/shop/sa/server');
    assert.equal(verdict.address, '10.244.2.7');
    assert.equal(verdict.port, 8080);
    assert.match(verdict.rule, /shop\/server is enrolled/);
  });

  type Row = [
    label: boolean,
    history: (PublishedState['state'] | undefined)[],
    permissive: string,
    strict: string,
  ];
  const rows: readonly Row[] = [
    // label stands, what its daemon published in turn, verdict when PERMISSIVE, verdict when STRICT
    [false, [], 'passthrough PASSTHROUGH_NOT_ENROLLED', 'passthrough PASSTHROUGH_NOT_ENROLLED'],
    [true, [], 'passthrough PASSTHROUGH_NOT_ENROLLED', 'hold DESTINATION_STRICT_NOT_ENROLLED'],
    [true, ['joining'], 'passthrough PASSTHROUGH_NOT_ENROLLED', 'hold DESTINATION_STRICT_NOT_ENROLLED'],
    [true, ['joining', 'enrolled'], 'tunnel OK', 'tunnel OK'],
    [true, ['enrolled', undefined], 'tunnel OK', 'tunnel OK'],
    [true, ['enrolled', 'leaving'], 'tunnel OK', 'tunnel OK'],
    [true, ['leaving'], 'tunnel OK', 'tunnel OK'],
    [
      true,
      ['enrolled', 'leaving', undefined],
      'hold DESTINATION_WAS_ENROLLED',
      'hold DESTINATION_WAS_ENROLLED',
    ],
    [true, ['enrolled', 'leaving', undefined, 'joining'], 'tunnel OK', 'tunnel OK'],
    [true, ['enrolled', 'joining'], 'tunnel OK', 'tunnel OK'],
    [true, ['enrolled', 'unenrollable'], 'hold DESTINATION_WAS_ENROLLED', 'hold DESTINATION_WAS_ENROLLED'],
    [
      true,
      ['unenrollable'],
      'passthrough PASSTHROUGH_NOT_ENROLLED',
      'refuse DESTINATION_STRICT_NOT_ENROLLED',
    ],
    [false, ['enrolled'], 'tunnel OK', 'tunnel OK'],
    [
      false,
      ['enrolled', undefined],
      'passthrough PASSTHROUGH_NOT_ENROLLED',
      'passthrough PASSTHROUGH_NOT_ENROLLED',
    ],
    [false, ['leaving'], 'passthrough PASSTHROUGH_NOT_ENROLLED', 'passthrough PASSTHROUGH_NOT_ENROLLED'],
  ];
  for (const [isLabelled, history, permissive, whenStrict] of rows)
    it(`${isLabelled ? 'labelled' : 'unlabelled'}, published ${history.map(String).join(' then ') || 'nothing'}: ${permissive}; STRICT: ${whenStrict}`, () => {
      const label = told.namespace('shop', isLabelled ? 'enabled' : undefined);
      const deltas = [label, ...history.map((state) => told.published(server, state))];
      assert.equal(brief(ask(deltas, '10.244.2.7')), permissive);
      assert.equal(brief(ask(deltas, '10.244.2.7', { over: strict })), whenStrict);
    });

  it('passes in the clear again once the label is gone, even to a pod that was enrolled', () => {
    const enrolledThen = [labelled, told.published(server, 'enrolled'), told.published(server, undefined)];
    assert.equal(ask(enrolledThen, '10.244.2.7').kind, 'tunnel');
    const unlabelled = [...enrolledThen, told.namespace('shop', undefined)];
    assert.equal(ask(unlabelled, '10.244.2.7', { over: strict }).kind, 'passthrough');
  });

  it('refuses at once, with the cause, a STRICT pod that can never be enrolled', () => {
    const alien = pod('alien', '10.244.2.8', { otherMesh: 'container istio-proxy' });
    const verdict = ask([labelled, told.pod(alien)], '10.244.2.8', { over: strict });
    assert.equal(brief(verdict), 'refuse DESTINATION_STRICT_NOT_ENROLLED');
    assert.match(verdict.rule, /istio-proxy/);
  });

  it('reads the mode of the very port that is dialled, from the PeerAuthentication that counts', () => {
    const demands = told.peerAuthentication('shop', 'web', {
      selector: { matchLabels: { app: 'web' } },
      mtls: { mode: 'STRICT' },
      portLevelMtls: { 9090: { mode: 'PERMISSIVE' } },
    });
    const web = pod('web', '10.244.2.8', { labels: { app: 'web' } });
    const deltas = [labelled, told.pod(web), demands];
    const held = ask(deltas, '10.244.2.8', { toPort: 8080 });
    assert.equal(brief(held), 'hold DESTINATION_STRICT_NOT_ENROLLED');
    assert.match(held.rule, /STRICT by PeerAuthentication shop\/web/);
    assert.equal(ask(deltas, '10.244.2.8', { toPort: 9090 }).kind, 'passthrough');
    assert.equal(ask(deltas, '10.244.2.7', { toPort: 8080 }).kind, 'passthrough');
    const gone = [...deltas, told.peerAuthentication('shop', 'web')];
    assert.equal(ask(gone, '10.244.2.8', { toPort: 8080 }).kind, 'passthrough');
  });

  it("refuses a meshed pod's 15008, which is ours, and passes it to a pod outside the mesh", () => {
    const enrolled = [labelled, told.published(server, 'enrolled')];
    assert.equal(brief(ask(enrolled, '10.244.2.7', { toPort: 15_008 })), 'refuse OWN_LISTENER');
    const unlabelled = [told.namespace('shop', undefined)];
    assert.equal(ask(unlabelled, '10.244.2.7', { toPort: 15_008 }).kind, 'passthrough');
  });

  it('takes a pod whose namespace it has not read for one that may be labelled', () => {
    assert.equal(brief(ask([], '10.244.2.7', { over: strict })), 'hold DESTINATION_STRICT_NOT_ENROLLED');
    assert.equal(brief(ask([], '10.244.2.7', { toPort: 15_008 })), 'refuse OWN_LISTENER');
    const once = [told.published(server, 'enrolled'), told.published(server, undefined)];
    assert.notEqual(ask(once, '10.244.2.7').kind, 'passthrough');
  });

  it('keeps a connection to the own address inside the pod, but not to our own listeners there', () => {
    assert.equal(brief(ask([], '10.244.1.5')), 'self SELF');
    const state = stateOf(base);
    const local = { uid: client.uid, ips: client.ips, ownPorts: [port(61_001)] };
    for (const own of [61_001, 15_008])
      assert.equal(brief(route(state, local, ip('10.244.1.5'), port(own), () => 0)), 'refuse OWN_LISTENER');
  });

  it('gives a reused address to its new pod: the identity that must answer is the new one', () => {
    const next = pod('next', '10.244.2.7', { createdMs: 9, serviceAccount: 'bank' });
    const verdict = ask([labelled, told.pod(next), told.published(next, 'enrolled')], '10.244.2.7');
    assert.equal(verdict.kind === 'tunnel' && verdict.identity, 'spiffe://cluster.local/ns/shop/sa/bank');
  });
});

describe('route to an address without a pod', () => {
  it('holds an unknown address of the mesh ranges, and passes all others', () => {
    assert.equal(brief(ask([], '10.244.2.200')), 'hold UNKNOWN_DESTINATION');
    assert.equal(
      brief(ask([], '10.200.0.1', { over: { meshCidrs: ['10.200.0.0/16'] } })),
      'hold UNKNOWN_DESTINATION',
    );
    for (const outside of ['93.184.216.34', '169.254.169.254', '2001:db8::1'])
      assert.equal(brief(ask([], outside)), 'passthrough PASSTHROUGH_OUTSIDE_MESH');
  });

  it('holds the address of a pod that has ended', () => {
    assert.equal(
      brief(ask([told.pod({ ...server, phase: 'Failed' })], '10.244.2.7')),
      'hold UNKNOWN_DESTINATION',
    );
  });

  it('passes a range that the pod takes out', () => {
    const excluding = told.pod({ ...client, excludeOutboundCidrs: ['10.244.2.200/32'] });
    assert.equal(brief(ask([excluding], '10.244.2.200')), 'passthrough PASSTHROUGH_OUTSIDE_MESH');
    assert.equal(brief(ask([excluding], '10.244.2.201')), 'hold UNKNOWN_DESTINATION');
  });

  it('passes nodes, also inside the ranges, and names a NodePort', () => {
    const here = told.node(node('node-b', { podCidrs: ['10.0.0.0/8'], addresses: [ip('10.9.9.9')] }));
    assert.equal(brief(ask([here], '10.9.9.9')), 'passthrough PASSTHROUGH_OUTSIDE_MESH');
    const web = service('web', '10.96.0.1', {
      ports: [{ name: 'http', port: port(80), nodePort: port(30_080) }],
    });
    const verdict = ask([here, told.service(web)], '10.9.9.9', { toPort: 30_080 });
    assert.equal(brief(verdict), 'passthrough PASSTHROUGH_KUBE_PROXY');
    assert.equal(verdict.service?.name, 'web');
  });

  it('leaves external and load balancer addresses to kube-proxy, unless they cover the mesh ranges', () => {
    const web = service('web', '10.96.0.1', { externalIps: [ip('192.168.7.7'), ip('10.244.2.200')] });
    assert.equal(brief(ask([told.service(web)], '192.168.7.7')), 'passthrough PASSTHROUGH_KUBE_PROXY');
    assert.equal(brief(ask([told.service(web)], '10.244.2.200')), 'hold UNKNOWN_DESTINATION');
  });
});

describe('route to a Service', () => {
  const second = pod('second', '10.244.2.8');
  const web = told.service(service('web', '10.96.0.1'));
  const both = told.slice(slice('web-1', 'web', [endpoint(server), endpoint(second)]));
  const enrolled = [
    labelled,
    told.pod(second),
    told.published(server, 'enrolled'),
    told.published(second, 'enrolled'),
  ];
  const toWeb = (deltas: readonly Delta[], options: Parameters<typeof ask>[2] = {}): RouteVerdict =>
    ask([web, ...deltas], '10.96.0.1', { toPort: 80, ...options });

  it('tunnels to an endpoint, with the others to fall back on, and names the Service', () => {
    const verdict = toWeb([both, ...enrolled]);
    assert.equal(verdict.kind, 'tunnel');
    assert.equal(verdict.address, '10.244.2.7');
    assert.equal(verdict.port, 8080);
    assert.equal(verdict.service?.name, 'web');
    assert.deepEqual(
      verdict.alternates.map(({ address }) => address),
      ['10.244.2.8'],
    );
    const other = toWeb([both, ...enrolled], { random: 0.99 });
    assert.equal(other.kind === 'tunnel' && other.address, '10.244.2.8');
  });

  it('goes in the clear to the very endpoint it chose: kube-proxy could choose an enrolled one', () => {
    const verdict = toWeb([both, told.pod(second)]);
    assert.equal(verdict.kind, 'passthrough');
    assert.equal(verdict.address, '10.244.2.7');
    assert.equal(verdict.port, 8080);
  });

  it('prefers an endpoint that can be dialled now to one that must be waited for', () => {
    const onlySecond = [labelled, told.pod(second), told.published(second, 'enrolled')];
    const verdict = toWeb([both, ...onlySecond], { over: strict });
    assert.equal(verdict.kind === 'tunnel' && verdict.address, '10.244.2.8');
    const none = toWeb([both, labelled, told.pod(second)], { over: strict });
    assert.equal(brief(none), 'hold DESTINATION_STRICT_NOT_ENROLLED');
  });

  it('delivers inside the pod when the pod picks itself', () => {
    const own = told.slice(slice('web-1', 'web', [endpoint(client)]));
    const verdict = toWeb([own]);
    assert.equal(brief(verdict), 'self SELF');
    assert.equal(verdict.kind === 'self' && verdict.port, 8080);
  });

  it('refuses at once without an endpoint, and for a port that the Service has not', () => {
    assert.equal(brief(toWeb([])), 'refuse NO_ENDPOINTS');
    assert.equal(brief(toWeb([both, ...enrolled], { toPort: 81 })), 'refuse NO_SERVICE_PORT');
    const unready = told.slice(slice('web-1', 'web', [endpoint(server, { ready: false, serving: false })]));
    assert.equal(brief(toWeb([unready])), 'refuse NO_ENDPOINTS');
  });

  it('holds for an endpoint whose pod is not known yet', () => {
    const early = told.slice(slice('web-1', 'web', [endpoint(pod('early', '10.244.2.99'))]));
    assert.equal(brief(toWeb([early])), 'hold UNKNOWN_DESTINATION');
  });

  it('passes as dialled a Service without selector, or with endpoints outside', () => {
    const api = told.service(service('web', '10.96.0.1', { hasSelector: false }));
    const outside = told.slice(slice('web-1', 'web', [endpoint('192.0.2.1')]));
    for (const deltas of [[api], [api, outside], [outside]]) {
      const verdict = toWeb(deltas);
      assert.equal(brief(verdict), 'passthrough PASSTHROUGH_UNMANAGED_SERVICE');
      assert.deepEqual(verdict.kind === 'passthrough' && [verdict.address, verdict.port], ['10.96.0.1', 80]);
    }
  });

  it('passes as dialled to hostNetwork backends, but refuses when these are STRICT', () => {
    const host = pod('host', '172.16.0.2', { hostNetwork: true });
    const deltas = [told.pod(host), told.slice(slice('web-1', 'web', [endpoint(host)]))];
    assert.equal(brief(toWeb(deltas)), 'passthrough PASSTHROUGH_UNMANAGED_SERVICE');
    assert.equal(
      brief(toWeb([labelled, ...deltas], { over: strict })),
      'refuse DESTINATION_STRICT_NOT_ENROLLED',
    );
  });

  it('does not believe a slice that gives a hostNetwork pod an address of the mesh ranges', () => {
    const host = pod('host', '172.16.0.2', { hostNetwork: true });
    const lie = told.slice(slice('web-1', 'web', [endpoint(host, { ip: ip('10.244.2.200') })]));
    assert.equal(brief(toWeb([told.pod(host), lie])), 'refuse NO_ENDPOINTS');
    const shared = pod('shared', '10.244.2.7', { hostNetwork: true });
    const both = [...enrolled, told.pod(shared), told.slice(slice('web-1', 'web', [endpoint(shared)]))];
    assert.equal(brief(toWeb(both)), 'refuse NO_ENDPOINTS');
  });
});

describe('route, whatever the state', () => {
  const anyCase = fc.record({
    deltas: anyHistory,
    source: anyPodUid,
    target: anyTarget,
    random: anyRandom,
    mode: fc.constantFrom<MeshSettings['defaultMode']>('permissive', 'strict'),
    meshCidrs: fc.subarray(RANGES),
  });
  const runs = { numRuns: 3_000 };

  it('gives a verdict with a reason', () => {
    fc.assert(
      fc.property(anyCase, ({ deltas, source, target, random, mode, meshCidrs }) => {
        const state = stateOf(deltas, { defaultMode: mode, meshCidrs });
        const from = state.workload(source) ?? { uid: source, ips: [] };
        const verdict = route(state, from, target.ip, target.port, () => random);
        assert.ok(verdict.rule.length > 0 && verdict.reason.length > 0);
      }),
      runs,
    );
  });

  it('never dials in the clear a labelled pod that is STRICT, was enrolled, or an unknown one', () => {
    fc.assert(
      fc.property(anyCase, ({ deltas, source, target, random, mode, meshCidrs }) => {
        const state = stateOf(deltas, { defaultMode: mode, meshCidrs });
        const from = state.workload(source) ?? { uid: source, ips: [] };
        const verdict = route(state, from, target.ip, target.port, () => random);
        if (verdict.kind !== 'passthrough') return;
        for (const { address, port: toPort } of [verdict, ...verdict.alternates])
          assertMayBeClear(address, toPort);

        function assertMayBeClear(address: Ip, toPort: Port): void {
          const reached = state.workloadByIp(address);
          if (reached === undefined) {
            // Only the pod's own exclusion takes an unknown address out of the ranges.
            const excluded = state.workload(source)?.excludeOutboundCidrs ?? [];
            const isKnown = state.isHostAddress(address) || state.serviceByClusterIp(address) !== undefined;
            assert.ok(isKnown || !state.isInMeshRanges(address) || isInside(address, excluded));
            return;
          }
          assert.equal(state.isEnrolled(reached.uid), false);
          if (!state.isLabelled(reached)) return;
          assert.equal(modeOf(state, reached, toPort), 'permissive');
          assert.equal(state.wasEnrolled(reached.uid), false);
        }
      }),
      runs,
    );
  });

  it('tunnels only where the far daemon has said so, to the identity of that pod', () => {
    fc.assert(
      fc.property(anyCase, ({ deltas, source, target, random, mode }) => {
        const state = stateOf(deltas, { defaultMode: mode });
        const from = state.workload(source) ?? { uid: source, ips: [] };
        const verdict = route(state, from, target.ip, target.port, () => random);
        if (verdict.kind !== 'tunnel') return;
        for (const { workload, identity, address, port: toPort } of [verdict, ...verdict.alternates]) {
          const said = state.published(workload.uid)?.state;
          assert.ok(said === 'enrolled' || said === 'leaving' || state.wasEnrolled(workload.uid));
          assert.equal(state.workloadByIp(address)?.uid, workload.uid);
          assert.equal(
            identity,
            `spiffe://cluster.local/ns/${workload.namespace}/sa/${workload.serviceAccount}`,
          );
          assert.notEqual(toPort, 15_008);
          assert.notEqual(workload.uid, source);
        }
      }),
      runs,
    );
  });
});
