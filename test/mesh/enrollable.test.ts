import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { enrolmentNotes, whyNotEnrollable } from '../../daemon/mesh/enrollable.ts';
import type { NotEnrollableCode } from '../../daemon/mesh/enrollable.ts';
import type { Workload } from '../../daemon/mesh/model.ts';
import { pod, port } from './world.ts';

describe('whyNotEnrollable', () => {
  const rows: readonly [NotEnrollableCode, Partial<Workload>, RegExp][] = [
    ['HOST_NETWORK', { hostNetwork: true }, /node's network/],
    ['WINDOWS', { os: 'windows' }, /Windows/],
    ['OTHER_MESH', { otherMesh: 'container linkerd-proxy' }, /linkerd-proxy/],
    ['FOREIGN_RUNTIME', { foreignRuntime: 'kata-qemu' }, /kata-qemu/],
    ['SECONDARY_NETWORKS', { secondaryNetworks: 'storage-net' }, /storage-net/],
    ['FINISHED', { phase: 'Succeeded' }, /Succeeded/],
    ['FINISHED', { phase: 'Failed', hostNetwork: true }, /Failed/],
  ];
  for (const [code, over, text] of rows)
    it(`${code}: ${JSON.stringify(over)}`, () => {
      const why = whyNotEnrollable(pod('a', '10.244.1.1', over));
      assert.equal(why?.code, code);
      assert.match(why.text, text);
    });

  it('takes a plain pod, also before it runs', () => {
    assert.equal(whyNotEnrollable(pod('a', '10.244.1.1')), undefined);
    assert.equal(whyNotEnrollable(pod('a', '10.244.1.1', { phase: 'Pending', ips: [] })), undefined);
  });

  it("sees the namespace's ambient label, and the pod's way out of it", () => {
    const ambient = { name: 'shop', meshLabel: undefined, labels: { 'istio.io/dataplane-mode': 'ambient' } };
    assert.equal(whyNotEnrollable(pod('a', '10.244.1.1'), ambient)?.code, 'OTHER_MESH');
    const out = pod('a', '10.244.1.1', { labels: { 'istio.io/dataplane-mode': 'none' } });
    assert.equal(whyNotEnrollable(out, ambient), undefined);
  });

  it('tells that an app on 15008 is hidden, but not one on 15001 or 15006', () => {
    const uses = (value: number): Workload => pod('a', '10.244.1.1', { containerPorts: [port(value)] });
    assert.deepEqual(
      enrolmentNotes(uses(15_008)).map(({ code }) => code),
      ['APP_USES_15008'],
    );
    assert.deepEqual([...enrolmentNotes(uses(15_001)), ...enrolmentNotes(uses(15_006))], []);
  });
});
