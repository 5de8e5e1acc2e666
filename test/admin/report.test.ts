import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { NodeReport } from '../../daemon/admin/report.ts';
import { WorkloadIndex } from '../../daemon/admin/workload-index.ts';
import { parseConfig } from '../../daemon/config.ts';
import type { SourceProblem, Workload } from '../../daemon/mesh/model.ts';
import { MeshState } from '../../daemon/mesh/state.ts';
import type { PodStatus } from '../../daemon/mesh/wiring.ts';
import { createLog } from '../../daemon/observe/log.ts';
import type { PodEvent } from '../../daemon/observe/pod-events.ts';
import { podUid, record } from '../observe/records.ts';

const UID = podUid('11111111-1111-1111-1111-111111111111');

function workload(name: string, changes: Partial<Workload> = {}): Workload {
  return {
    uid: UID,
    name,
    namespace: 'shop',
    serviceAccount: 'web',
    node: 'node-a',
    ips: [],
    labels: { app: 'web', version: 'v2' },
    hostNetwork: false,
    phase: 'Running',
    meshLabel: undefined,
    otherMesh: undefined,
    foreignRuntime: undefined,
    os: 'linux',
    containerPorts: [],
    excludeOutboundCidrs: [],
    cutExisting: false,
    allowNestedNetns: false,
    terminating: false,
    ready: true,
    createdMs: 0,
    owner: 'Deployment/web',
    ...changes,
  };
}

class Node {
  readonly lines: string[] = [];
  readonly events: PodEvent[] = [];
  problems: SourceProblem[] = [];
  error: string | undefined;
  readonly report: NodeReport;
  readonly #config = parseConfig({ nodeName: 'node-a' }, {});
  readonly state = new MeshState(this.#config);

  constructor() {
    const log = createLog({
      thread: 'main',
      level: 'info',
      destination: { write: (text) => this.lines.push(...text.trimEnd().split('\n')) },
    });
    const certificate = {
      id: 'spiffe://x/ns/a/sa/b',
      serial: undefined,
      notBeforeMs: undefined,
      notAfterMs: undefined,
      nextAttemptMs: undefined,
    };
    this.report = new NodeReport({
      config: this.#config,
      version: '0.1.0',
      log,
      state: this.state,
      source: { problems: () => this.problems, stalenessMs: () => new Map([['pods', 3_000]]) },
      certificates: { list: () => [{ ...certificate, state: 'issuing', lastError: this.error }] },
      onPodEvent: (event) => this.events.push(event),
    });
  }

  get options(): ReturnType<NodeReport['adminOptions']> {
    return this.report.adminOptions(
      () => Promise.resolve([]),
      () => undefined,
    );
  }
}

describe("the daemon's report of itself", () => {
  it('is ready when the state is complete and the programs are attached, and says so in the metrics', async () => {
    const node = new Node();
    assert.equal(node.options.notReady().length, 2);
    node.report.synced();
    node.report.enrolment({ type: 'started' });
    node.problems = [{ where: 'a.yaml', line: 3, reason: 'broken' }];
    node.error = 'the CA folder is not readable';
    assert.deepEqual(node.options.notReady(), []);
    const text = await node.options.metrics.text();
    for (const line of [
      'culvert_ready 1',
      'culvert_source_problems 1',
      'culvert_watch_staleness_seconds{source="pods"} 3',
      'culvert_certificates{state="failed"} 1',
    ])
      assert.ok(text.split('\n').includes(line), line);
    assert.match(text, /^culvert_event_loop_lag_p99_seconds\{thread="main"\} /m);
  });

  it('shows a certificate that can not be issued as failed, with the error', async () => {
    const node = new Node();
    assert.partialDeepStrictEqual(await node.options.backend.certificates(), [{ state: 'waiting' }]);
    node.error = 'no';
    assert.partialDeepStrictEqual(await node.options.backend.certificates(), [
      { state: 'failed', error: 'no' },
    ]);
  });

  it('counts and logs each closed connection once, and keeps refusals while the pod is there', async () => {
    const node = new Node();
    node.state.apply([{ kind: 'workload', key: UID, value: workload('web-1') }]);
    const pod: PodStatus = {
      uid: UID,
      name: 'web-1',
      namespace: 'shop',
      state: 'enrolled',
      reason: undefined,
      id: undefined,
      ips: [],
      olderConnections: 0,
      sinceMs: 0,
    };
    node.report.enrolment({ type: 'pods', pods: [pod] });
    node.report.closed([record(), record({ reason: 'NO_ENDPOINTS' })]);
    assert.deepEqual(node.events, [], 'neither is worth an Event');
    node.report.closed([record({ reason: 'UNKNOWN_DESTINATION' })]);
    assert.deepEqual(
      node.events.map(({ reason }) => reason),
      ['UnknownDestination'],
    );
    assert.equal(node.lines.filter((line) => line.includes('connection complete')).length, 3);
    const text = await node.options.metrics.text();
    assert.match(
      text,
      /istio_tcp_connections_closed_total\{[^}]*source_workload="web",[^}]*source_version="v2"[^}]*\} 1/,
    );
    assert.equal((await node.options.backend.status()).refusals.length, 2);
    node.report.enrolment({ type: 'pods', pods: [] });
    assert.equal((await node.options.backend.status()).refusals.length, 0);
  });

  it('tells what the kernel refused: one line with a count, the last refusals, the metric', async () => {
    const node = new Node();
    node.state.apply([{ kind: 'workload', key: UID, value: workload('web-1') }]);
    const refused = { uid: UID, direction: 'outbound', reason: 'POD_PENDING', count: 3 } as const;
    node.report.enrolment({ type: 'kernel-refusals', refusals: [refused, { ...refused, uid: undefined }] });
    node.report.enrolment({ type: 'kernel-refusals', refusals: [{ ...refused, count: 4 }] });
    const lines = node.lines.map((line): unknown => JSON.parse(line));
    const common = { direction: 'outbound', reason: 'POD_PENDING', flag: 'DENY', bytes_sent: 0 };
    assert.partialDeepStrictEqual(lines, [
      { ...common, count: 3, 'src.workload': 'web-1', 'src.namespace': 'shop' },
      { ...common, count: 3 },
      { ...common, count: 4, 'src.workload': 'web-1' },
    ]);
    assert.partialDeepStrictEqual((await node.options.backend.status()).refusals, [
      { podUid: UID, reason: 'POD_PENDING', source: 'shop/web-1', destination: '-', count: 7 },
    ]);
    const text = await node.options.metrics.text();
    assert.match(text, /^culvert_refusals_total\{reason="POD_PENDING",direction="outbound"\} 10$/m);
  });

  it('begins to uninstall once, and is done when enrolment says so', async () => {
    const node = new Node();
    let asked = 0;
    const { backend } = node.report.adminOptions(
      () => Promise.resolve([]),
      () => (asked += 1),
    );
    await backend.uninstall();
    await backend.uninstall();
    assert.deepEqual([asked, (await backend.status()).uninstall], [1, 'leaving']);
    node.report.enrolment({ type: 'left' });
    assert.equal((await backend.status()).uninstall, 'done');
  });
});

describe('the index of workloads', () => {
  it('walks the workloads seldom, and still finds a new pod within a second', () => {
    let now = 0;
    let walks = 0;
    const all = [workload('web-1')];
    const walk = (): readonly Workload[] => {
      walks += 1;
      return all;
    };
    const index = new WorkloadIndex(walk, () => now);
    for (let i = 0; i < 1_000; i++) assert.equal(index.describe('shop', 'web-1')?.workload, 'web');
    for (let i = 0; i < 1_000; i++) assert.equal(index.describe('shop', 'nobody'), undefined);
    assert.equal(walks, 1);
    all.push(workload('web-2', { owner: undefined, labels: {} }));
    now += 1_001;
    const found = index.describe('shop', 'web-2');
    assert.deepEqual([found?.workload, found?.app, walks], ['web-2', undefined, 2]);
  });
});
