/** A data plane of one worker for tests: real state, holding and records; the kernel and the tunnels are the test's. */
import assert from 'node:assert/strict';
import type { Socket } from 'node:net';
import type { Config } from '../../daemon/config.ts';
import { spiffeId } from '../../daemon/mesh/ids.ts';
import type { Ip, PodUid, Port } from '../../daemon/mesh/ids.ts';
import type { Delta, Workload } from '../../daemon/mesh/model.ts';
import type { ConnectionRecord, LocalPod } from '../../daemon/mesh/wiring.ts';
import { Connections } from '../../daemon/proxy/connections.ts';
import { Decisions } from '../../daemon/proxy/decisions.ts';
import { Descriptors } from '../../daemon/proxy/descriptors.ts';
import type { DescriptorLimits } from '../../daemon/proxy/descriptors.ts';
import { Holding } from '../../daemon/proxy/holding.ts';
import type { DataPlane } from '../../daemon/proxy/plane.ts';
import type { Refusal, TunnelRequest, TunnelStream } from '../../daemon/proxy/seams.ts';
import { until } from '../support/wait.ts';
import { settings, stateOf } from '../mesh/world.ts';
import { makeCa } from '../support/pki.ts';
import { identityOf, socketPair, testConfig } from './hbone.kit.ts';

export interface TestPlane {
  readonly plane: DataPlane;
  readonly records: ConnectionRecord[];
  /** Takes changes in and asks held connections again, as a worker does. */
  tell(...deltas: Delta[]): void;
  /** Changes what enrolment says of the pod, and asks again. */
  setPod(pod: LocalPod): void;
  /** The pod has left this node. */
  dropPod(uid: PodUid): void;
  /** The app's end of a connection to one of the pod's listeners, and ours. */
  connect(): Promise<{ readonly app: Socket; readonly ours: Socket }>;
  /** Resolves with the only record. */
  record(): Promise<ConnectionRecord>;
}

/** A pod of this node, as enrolment tells a worker of it. */
export function localPod(workload: Workload, over: Partial<LocalPod> = {}): LocalPod {
  return {
    uid: workload.uid,
    name: workload.name,
    namespace: workload.namespace,
    id: spiffeId(settings().trustDomain, workload.namespace, workload.serviceAccount),
    ips: workload.ips,
    state: 'enrolled',
    netnsFd: -1,
    ownPorts: [],
    ...over,
  };
}

/** `openTunnel` answers each CONNECT; `destination` is what the kernel says that the app dialled. */
export function makePlane(options: {
  readonly pod: LocalPod;
  readonly deltas: readonly Delta[];
  readonly config?: Partial<Config>;
  readonly limits?: Partial<DescriptorLimits>;
  readonly destination?: { readonly ip: Ip; readonly port: Port };
  readonly openTunnel?: (request: TunnelRequest) => Promise<TunnelStream | Refusal>;
}): TestPlane {
  const config = testConfig({ holdTimeout: 5_000, ...options.config });
  const records: ConnectionRecord[] = [];
  const state = stateOf(options.deltas, { defaultMode: config.defaultMode });
  const pods = new Map<PodUid, LocalPod>([[options.pod.uid, options.pod]]);
  const identity = identityOf(makeCa(), options.pod.id);
  const descriptors = new Descriptors({ perPod: 100, total: 100, ...options.limits }, () => false);
  const plane: DataPlane = {
    config,
    state,
    identities: {
      get: () => ({ ok: true, identity }),
      verifyPeer: () => assert.fail('no peer here'),
      trust: () => undefined,
      onChange: () => () => undefined,
    },
    // Any errno: these tests look at what is decided, not at what is dialled.
    sockets: { dial: () => -1, originalDestination: () => options.destination },
    tunnels: {
      open: (request) => options.openTunnel?.(request) ?? assert.fail('no tunnel was expected'),
      closePod: () => undefined,
      closeIdle: () => false,
      size: 0,
      drain: () => undefined,
    },
    tunnelServer: {
      serve: () => assert.fail('no tunnel was expected'),
      closePod: () => undefined,
      closeIdle: () => false,
      judgeAgain: () => undefined,
      size: 0,
      handshakes: 0,
      drain: () => undefined,
    },
    descriptors,
    decisions: new Decisions(),
    connections: new Connections('test', descriptors, {
      onOpen: () => undefined,
      onClosed: (record) => void records.push(record),
    }),
    holding: new Holding(10, config.holdTimeout),
    pods,
    synced: true,
  };
  return {
    plane,
    records,
    tell: (...deltas) => {
      state.apply(deltas);
      plane.holding.wake();
    },
    setPod: (pod) => {
      pods.set(pod.uid, pod);
      plane.holding.wake();
    },
    dropPod: (uid) => {
      pods.delete(uid);
      plane.holding.wake();
    },
    connect: async () => {
      const { near, far } = await socketPair();
      return { app: near, ours: far };
    },
    record: () => until('the record', () => records[0]),
  };
}
