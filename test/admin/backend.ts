/** A daemon's backend for tests: fixed answers, and what was asked of it. */
import type { AdminBackend, NodeStatus } from '../../daemon/admin/backend.ts';
import { identity, podUid, record } from '../observe/records.ts';

export const NODE_STATUS: NodeStatus = {
  node: 'node-a',
  version: '0.1.0',
  startedMs: 1_000_000,
  notReady: [],
  uninstall: 'no',
  pods: [
    {
      uid: podUid('uid-web'),
      name: 'web-7d9c4',
      namespace: 'shop',
      state: 'enrolled',
      reason: undefined,
      id: identity('shop', 'web'),
      ips: [],
      olderConnections: 3,
      sinceMs: 1_000_000,
    },
  ],
  refusals: [],
  problems: [],
};

export class FakeBackend implements AdminBackend {
  /** What `status` answers next; the last one stays. */
  statuses: NodeStatus[] = [NODE_STATUS];
  uninstalls = 0;

  status(): Promise<NodeStatus> {
    const next = this.statuses.length > 1 ? this.statuses.shift() : this.statuses[0];
    return Promise.resolve(next ?? NODE_STATUS);
  }

  connections(): ReturnType<AdminBackend['connections']> {
    return Promise.resolve([record()]);
  }

  certificates(): ReturnType<AdminBackend['certificates']> {
    return Promise.resolve([
      {
        identity: identity('shop', 'web'),
        state: 'ready',
        serial: '0a1b2c',
        notBeforeMs: 1_000_000,
        notAfterMs: 87_400_000,
        error: undefined,
      },
      {
        identity: identity('data', 'db'),
        state: 'failed',
        serial: undefined,
        notBeforeMs: undefined,
        notAfterMs: undefined,
        error: 'the CA folder /var/lib/culvert/ca is not readable',
      },
    ]);
  }

  config(): Promise<unknown> {
    return Promise.resolve({ knobs: { nodeName: 'node-a' } });
  }

  uninstall(): Promise<void> {
    this.uninstalls += 1;
    return Promise.resolve();
  }
}
