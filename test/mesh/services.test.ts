import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Delta, Service } from '../../daemon/mesh/model.ts';
import { resolve } from '../../daemon/mesh/services.ts';
import type { ResolveContext } from '../../daemon/mesh/services.ts';
import { endpoint, ip, pod, port, service, slice, stateOf, told } from './world.ts';

const near = pod('near', '10.244.1.1', { node: 'node-a' });
const far = pod('far', '10.244.2.1', { node: 'node-b' });
const farther = pod('farther', '10.244.3.1', { node: 'node-c' });
const pods = [near, far, farther].map(told.pod);
const here: ResolveContext = {
  family: 'IPv4',
  sourceNode: 'node-a',
  sourceZone: 'z1',
  sourceIp: ip('10.244.1.77'),
  random: () => 0,
};

/** The endpoints in order as `ip:port`, or why there are none. */
function endpoints(of: Service, deltas: readonly Delta[], context: Partial<ResolveContext> = {}): string[] {
  const state = stateOf([...pods, told.service(of), ...deltas]);
  const resolution = resolve(state, of, port(80), { ...here, ...context });
  return resolution.kind === 'none'
    ? [resolution.reason]
    : [...resolution.candidates].map((candidate) => `${candidate.ip}:${candidate.port}`);
}

const web = (over: Partial<Service> = {}): Service => service('web', '10.96.0.1', over);
const all = told.slice(
  slice(
    's1',
    'web',
    [near, far, farther].map((each) => endpoint(each)),
  ),
);

describe('resolve', () => {
  it('takes the port of the name that each slice gives', () => {
    const slices = [
      told.slice(slice('s1', 'web', [endpoint(near)], { ports: { http: port(8080), admin: port(9) } })),
      told.slice(slice('s2', 'web', [endpoint(far)], { ports: { http: port(8081) } })),
      told.slice(slice('s3', 'web', [endpoint(farther)], { ports: { admin: port(9) } })),
    ];
    assert.deepEqual(endpoints(web(), slices), ['10.244.1.1:8080', '10.244.2.1:8081']);
  });

  it('uses the slices of the family that was dialled', () => {
    const six = pod('six', 'fd00:1::1');
    const v6 = told.slice(slice('s6', 'web', [endpoint(six)], { family: 'IPv6' }));
    assert.deepEqual(endpoints(web(), [all, told.pod(six), v6], { family: 'IPv6' }), ['fd00:1::1:8080']);
    assert.equal(endpoints(web(), [all, v6]).length, 3);
  });

  it('leaves out endpoints that are not ready, and uses the serving ones when all are terminating', () => {
    const closing = { ready: false, serving: true, terminating: true };
    const mixed = slice('s1', 'web', [endpoint(near, closing), endpoint(far)]);
    assert.deepEqual(endpoints(web(), [told.slice(mixed)]), ['10.244.2.1:8080']);
    const allClosing = slice('s1', 'web', [
      endpoint(near, closing),
      endpoint(far, { ready: false, serving: false }),
    ]);
    assert.deepEqual(endpoints(web(), [told.slice(allClosing)]), ['10.244.1.1:8080']);
    const starting = slice('s1', 'web', [endpoint(near, { ready: false, serving: false })]);
    assert.deepEqual(endpoints(web(), [told.slice(starting)]), ['NO_ENDPOINTS']);
    const published = web({ publishNotReadyAddresses: true });
    assert.deepEqual(endpoints(published, [told.slice(starting)]), ['10.244.1.1:8080']);
  });

  it('stays on the node with internalTrafficPolicy Local, also when that leaves nothing', () => {
    const local = web({ internalTrafficPolicy: 'Local' });
    assert.deepEqual(endpoints(local, [all]), ['10.244.1.1:8080']);
    assert.deepEqual(endpoints(local, [all], { sourceNode: 'node-z' }), ['NO_ENDPOINTS']);
  });

  it('prefers the zone or the node that trafficDistribution names, and falls back', () => {
    const zoned = told.slice(
      slice('s1', 'web', [
        endpoint(near, { zone: 'z1' }),
        endpoint(far, { zone: 'z1' }),
        endpoint(farther, { zone: 'z2' }),
      ]),
    );
    const byZone = web({ trafficDistribution: 'PreferSameZone' });
    assert.deepEqual(endpoints(byZone, [zoned]), ['10.244.1.1:8080', '10.244.2.1:8080']);
    assert.equal(endpoints(byZone, [zoned], { sourceZone: 'z9' }).length, 3);
    const byNode = web({ trafficDistribution: 'PreferSameNode' });
    assert.deepEqual(endpoints(byNode, [zoned]), ['10.244.1.1:8080']);
    assert.deepEqual(endpoints(byNode, [zoned], { sourceNode: 'node-z', sourceZone: 'z2' }), [
      '10.244.3.1:8080',
    ]);
  });

  it('sends one client to one endpoint with session affinity, and moves it only when that endpoint goes', () => {
    const sticky = web({ sessionAffinity: 'ClientIP' });
    const two = told.slice(slice('s1', 'web', [endpoint(near), endpoint(far)]));
    const chosen = new Set<string>();
    for (let i = 0; i < 60; i++) {
      const context = { sourceIp: ip(`10.244.1.${i + 1}`), random: Math.random };
      const [first, ...rest] = endpoints(sticky, [all], context);
      assert.equal(endpoints(sticky, [all], context)[0], first);
      chosen.add(String(first));
      const without = endpoints(sticky, [two], context)[0];
      assert.equal(without, first === '10.244.3.1:8080' ? rest.find((other) => other !== first) : first);
    }
    assert.equal(chosen.size, 3, 'clients spread over all endpoints');
  });

  it('spreads connections evenly', () => {
    const counts = new Map<string, number>();
    for (let i = 0; i < 300; i++) {
      const [first] = endpoints(web(), [all], { random: () => i / 300 });
      counts.set(String(first), (counts.get(String(first)) ?? 0) + 1);
    }
    assert.deepEqual([...counts.values()], [100, 100, 100]);
  });

  it('leaves out an endpoint whose pod has ended or has another address now', () => {
    const ended = told.pod({ ...near, phase: 'Succeeded' });
    const reused = told.pod(pod('new', '10.244.2.1', { createdMs: 9 }));
    assert.deepEqual(endpoints(web(), [all, ended, reused]), ['10.244.3.1:8080']);
  });

  it('is not fooled by port names that objects inherit', () => {
    const odd = web({ ports: [{ name: 'constructor', port: port(80), nodePort: undefined }] });
    assert.deepEqual(endpoints(odd, [all]), ['NO_ENDPOINTS']);
  });
});
