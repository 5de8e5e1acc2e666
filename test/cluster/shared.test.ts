import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { translate } from '../../daemon/cluster/objects.ts';
import { Shared } from '../../daemon/cluster/shared.ts';
import type { Workload } from '../../daemon/mesh/model.ts';

function workload(name: string, labels: Readonly<Record<string, string>>): Workload {
  const container = { name: 'main', ports: [{ containerPort: 8_080 }] };
  const object = {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { uid: `uid-${name}`, name, namespace: 'shop', labels },
    spec: { nodeName: 'node-1', containers: [container] },
    status: { phase: 'Running', podIP: '10.244.1.2' },
  };
  // As it comes from the API: nothing in it is anybody else's.
  const translation = translate(JSON.parse(JSON.stringify(object)));
  assert.equal(translation.kind, 'object');
  assert.equal(translation.delta?.kind, 'workload');
  assert.ok(translation.delta.value !== undefined);
  return translation.delta.value;
}

describe('what pods have in common', () => {
  it('is kept once, and only what is equal', () => {
    const [a, b] = [workload('a', { app: 'web', tier: 'x' }), workload('b', { app: 'web', tier: 'x' })];
    assert.equal(a.labels, b.labels);
    assert.equal(a.containerPorts, b.containerPorts);
    assert.equal(a.excludeOutboundCidrs, b.excludeOutboundCidrs);
    const c = workload('c', { app: 'web', tier: 'y' });
    assert.deepEqual([c.labels, c.name], [{ app: 'web', tier: 'y' }, 'c']);
    assert.deepEqual(a.labels, { app: 'web', tier: 'x' });
  });

  it('is not mistaken: texts that look like another’s key', () => {
    const tables = [{ a: 'b', c: 'd' }, { a: 'b","c":"d' }, { 'a":"b","c': 'd' }, {}];
    const shared = new Shared((table: object) => JSON.stringify(table));
    for (const table of [...tables, ...tables]) assert.deepEqual(shared.of({ ...table }), table);
  });

  it('is bounded: of very many values, and of long ones, none is remembered for ever', () => {
    const shared = new Shared((table: { readonly at: string }) => table.at);
    const first = { at: 'first' };
    assert.equal(shared.of(first), first);
    for (let at = 0; at < 20_000; at++) shared.of({ at: String(at) });
    assert.notEqual(shared.of({ at: 'first' }), first);
    const long = { at: 'x'.repeat(2_000) };
    shared.of(long);
    assert.notEqual(shared.of({ ...long }), long);
  });
});
