/** Nothing is lost between the records: every connection to one port has one at each end, and their bytes agree. */
import assert from 'node:assert/strict';
import { until } from '../support/wait.ts';
import type { LabDaemon, LogRecord } from './kit/daemon.ts';

/** What both daemons recorded of the connections to one port. */
export interface Ledger {
  readonly outbound: readonly LogRecord[];
  readonly inbound: readonly LogRecord[];
}

/**
 * Waits until the client's daemon has recorded `count` connections to the destinations that `isTheirs` takes and
 * the server's as many, and holds them against each other. Connections that ended with reason OK at both ends must
 * agree to the byte; what was under way to a side that broke is lost, and can only be missing.
 */
export async function settle(
  daemons: { readonly client: LabDaemon; readonly server: LabDaemon },
  port: number,
  count: number,
): Promise<Ledger> {
  const read = (daemon: LabDaemon, direction: string): LogRecord[] =>
    daemon.accessRecords().filter((r) => r['direction'] === direction && portOf(r['dst.addr']) === port);
  const now = (): Ledger => ({
    outbound: read(daemons.client, 'outbound'),
    inbound: read(daemons.server, 'inbound'),
  });
  const detail = (): string => JSON.stringify(now(), undefined, 1).slice(0, 4_000);
  const isComplete = (): Ledger | undefined => {
    const { outbound, inbound } = now();
    return outbound.length >= count && inbound.length >= count ? { outbound, inbound } : undefined;
  };
  const ledger = await until(`${count} records at each end of port ${port}`, isComplete, {
    detail,
    timeoutMs: 120_000,
    // Each look reads both logs again.
    everyMs: count > 500 ? 1_000 : 20,
  });
  assert.deepEqual([ledger.outbound.length, ledger.inbound.length], [count, count], detail());
  const isClean = [...ledger.outbound, ...ledger.inbound].every((record) => record['reason'] === 'OK');
  const sent = [sum(ledger.outbound, 'bytes_sent'), sum(ledger.inbound, 'bytes_sent')] as const;
  const received = [sum(ledger.outbound, 'bytes_recv'), sum(ledger.inbound, 'bytes_recv')] as const;
  if (isClean) assert.deepEqual([sent[1], received[1]], [sent[0], received[0]], detail());
  else assert.ok(sent[1] <= sent[0] && received[0] <= received[1], detail());
  return ledger;
}

/** Bytes of all records; `bytes_sent` is the client's to the server, at both ends. */
export function sum(records: readonly LogRecord[], field: 'bytes_sent' | 'bytes_recv'): number {
  return records.reduce((all, record) => all + Number(record[field]), 0);
}

function portOf(address: unknown): number {
  return Number(/:(\d+)$/.exec(String(address))?.[1]);
}
