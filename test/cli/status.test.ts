import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { NodeStatus } from '../../daemon/admin/backend.ts';
import type { PodStatus } from '../../daemon/mesh/wiring.ts';
import { NODE_STATUS } from '../admin/backend.ts';
import { identity, podUid } from '../observe/records.ts';
import { assertGolden, culvert, startApi } from './terminal.ts';

function pod(name: string, namespace: string, changes: Partial<PodStatus>): PodStatus {
  const common = {
    reason: undefined,
    ips: [],
    olderConnections: 0,
    sinceMs: 0,
    id: identity(namespace, 'default'),
  };
  return { uid: podUid(`uid-${name}`), name, namespace, state: 'enrolled', ...common, ...changes };
}

const FULL: NodeStatus = {
  ...NODE_STATUS,
  notReady: ['the state of the cluster is not complete'],
  pods: [
    ...NODE_STATUS.pods,
    pod('api-0', 'shop', {
      state: 'joining',
      reason: 'JOINING_NO_CERTIFICATE: the CA has not answered for 20 s',
    }),
    pod('agent-x', 'infra', {
      state: 'unenrollable',
      reason: 'HOST_NETWORK: the pod uses the network of its node',
      id: undefined,
    }),
    pod('old', 'infra', { state: 'leaving' }),
  ],
  refusals: [
    {
      podUid: podUid('uid-web'),
      direction: 'inbound',
      reason: 'PLAINTEXT_DENIED',
      text: 'the workload is STRICT and the client came without mTLS',
      detail: undefined,
      source: '10.0.0.9',
      destination: '10.244.1.5:80',
      count: 12,
      firstMs: 1_000_000,
      lastMs: 86_995_000,
    },
  ],
  problems: [
    { where: 'pods.yaml', line: 12, reason: 'metadata.name is missing' },
    { where: 'Service shop/web', line: undefined, reason: 'spec.ports[0].port is no port' },
  ],
};

describe('culvert status', () => {
  it('shows each pod in columns that line up, what was refused, and what is wrong with the state', async () => {
    await using api = await startApi();
    api.backend.statuses = [FULL];
    const { code, out, err } = await culvert(['status', '--admin', api.address]);
    assertGolden('status', out);
    assert.deepEqual([code, err], [1, '']);
    const lines = out.split('\n');
    const heading = lines.findIndex((line) => line.startsWith('NAMESPACE'));
    const state = (lines[heading] ?? '').indexOf('STATE');
    for (const line of lines.slice(heading + 1, heading + 5))
      assert.match(line.slice(state), /^(enrolled|joining|leaving|unenrollable) /);
  });

  it('ends with 0 when every labelled pod is enrolled', async () => {
    await using api = await startApi();
    const { code, out } = await culvert(['status', '--admin', api.address]);
    assert.equal(code, 0);
    assert.match(out, /web-7d9c4/);
    api.backend.statuses = [{ ...NODE_STATUS, pods: [] }];
    const empty = await culvert(['status', '--admin', api.address]);
    assert.equal(empty.code, 0);
    assert.match(empty.out, /no pod of this node is labelled/);
  });

  for (const state of ['pending', 'opening', 'joining', 'unenrollable'] as const)
    it(`ends with 1 when a labelled pod is ${state}`, async () => {
      await using api = await startApi();
      api.backend.statuses = [{ ...NODE_STATUS, pods: [pod('a', 'shop', { state })] }];
      assert.equal((await culvert(['status', '--admin', api.address])).code, 1);
    });

  it('shows and judges one namespace with -n', async () => {
    await using api = await startApi();
    api.backend.statuses = [FULL];
    const { code, out } = await culvert(['status', '--admin', api.address, '-n', 'data', '--json']);
    assert.equal(code, 0);
    assert.partialDeepStrictEqual(JSON.parse(out), { node: 'node-a', pods: [], refusals: [] });
    const shop = await culvert(['status', '--admin', api.address, '-n', 'shop']);
    assert.equal(shop.code, 1);
    assert.doesNotMatch(shop.out, /agent-x/);
  });

  it('prints JSON that has what the table has', async () => {
    await using api = await startApi();
    api.backend.statuses = [FULL];
    const { code, out } = await culvert(['status', '--admin', api.address, '--json']);
    assert.equal(code, 1);
    assert.partialDeepStrictEqual(JSON.parse(out), { pods: [{ name: 'web-7d9c4', olderConnections: 3 }] });
  });

  it('colours on a terminal only, and lets no name move the cursor', async () => {
    await using api = await startApi();
    const refusals = FULL.refusals.map((refusal) => ({ ...refusal, source: 'b\u001b[1A\u202e' }));
    api.backend.statuses = [
      { ...FULL, refusals, problems: [{ where: 'a\u001b[2J\nfake', line: 1, reason: 'x' }] },
    ];
    const plain = await culvert(['status', '--admin', api.address]);
    assert.doesNotMatch(plain.out, new RegExp('\u001b'));
    assert.match(plain.out, /a\?\[2J\?fake:1: x/);
    assert.match(plain.out, / b\?\[1A\? /);
    const coloured = await culvert(['status', '--admin', api.address], { colour: true });
    assert.match(coloured.out, new RegExp('\u001b\\[32menrolled\u001b\\[0m'));
    assert.equal(coloured.out.replaceAll(/\u001b\[\d+m/g, ''), plain.out, 'colours do not move columns');
  });
});
