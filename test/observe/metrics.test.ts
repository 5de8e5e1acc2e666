import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { METRICS, METRIC_NAMES } from '../../daemon/observe/metrics-table.ts';
import { Metrics } from '../../daemon/observe/metrics.ts';
import type { MetricsOptions } from '../../daemon/observe/metrics.ts';
import { identity, podUid, record } from './records.ts';

const LIMIT = 100;

function metricsAt(clock: { ms: number }, changes: Partial<MetricsOptions> = {}): Metrics {
  return new Metrics({
    seriesLimit: LIMIT,
    describe: () => undefined,
    now: () => clock.ms,
    version: '0.1.0',
    cacheMs: 0,
    usage: () => ({ cpuSeconds: 1.5, residentBytes: 80_000_000 }),
    ...changes,
  });
}

const metrics = (changes: Partial<MetricsOptions> = {}): Metrics => metricsAt({ ms: 0 }, changes);

/** The value of a series; `labels` are those that must be in it. */
function valueOf(
  text: string,
  name: string,
  labels: Readonly<Record<string, string>> = {},
): number | undefined {
  const wanted = Object.entries(labels).map(([key, value]) => `${key}="${value}"`);
  const line = text
    .split('\n')
    .find(
      (one) =>
        (one.startsWith(`${name}{`) || one.startsWith(`${name} `)) &&
        wanted.every((label) => one.includes(label)),
    );
  return line === undefined ? undefined : Number(line.slice(line.lastIndexOf(' ') + 1));
}

describe('/metrics', () => {
  it('has the names, types and labels that people have alerts on', async () => {
    const text = await metrics().text();
    const shown = METRIC_NAMES.map((name) => {
      assert.match(text, new RegExp(`^# TYPE ${name} ${METRICS[name].type}$`, 'm'));
      return `${name} ${METRICS[name].type} ${METRICS[name].stability} ${METRICS[name].labels.join(',')}`.trimEnd();
    });
    const file = join(import.meta.dirname, 'golden/metrics.txt');
    if (process.env['UPDATE_GOLDEN'] === '1') writeFileSync(file, `${shown.join('\n')}\n`);
    assert.equal(`${shown.join('\n')}\n`, readFileSync(file, 'utf8'));
    assert.equal([...text.matchAll(/^# TYPE /gm)].length, METRIC_NAMES.length, 'a metric outside the table');
  });

  it("counts a connection under ztunnel's labels, sent and received not swapped", async () => {
    const counted = metrics({
      describe: (namespace, pod) =>
        namespace === 'shop' && pod === 'web-1'
          ? { workload: 'web', app: 'web', version: 'v2', canonicalService: 'web', canonicalRevision: 'v2' }
          : undefined,
    });
    counted.closed(record());
    counted.closed(record({ bytesSent: 1, bytesReceived: 2 }));
    const text = await counted.text();
    const labels = {
      reporter: 'source',
      source_workload: 'web',
      source_version: 'v2',
      source_principal: 'spiffe://cluster.local/ns/shop/sa/web',
      destination_workload: 'db-0',
      destination_app: 'unknown',
      destination_service: 'db.data.svc.cluster.local',
      destination_service_name: 'db',
      destination_service_namespace: 'data',
      request_protocol: 'tcp',
      response_flags: '-',
      connection_security_policy: 'mutual_tls',
    };
    assert.equal(valueOf(text, 'istio_tcp_connections_opened_total', labels), 2);
    assert.equal(valueOf(text, 'istio_tcp_connections_closed_total', labels), 2);
    assert.equal(valueOf(text, 'istio_tcp_sent_bytes_total', labels), 101);
    assert.equal(valueOf(text, 'istio_tcp_received_bytes_total', labels), 2_002);
  });

  it('counts a long connection as opened once, before it closes', async () => {
    const counted = metrics();
    counted.opened(record());
    assert.equal(valueOf(await counted.text(), 'istio_tcp_connections_opened_total'), 1);
    assert.equal(valueOf(await counted.text(), 'istio_tcp_connections_closed_total'), 0);
    counted.closed(record({ reportedOpen: true }));
    assert.equal(valueOf(await counted.text(), 'istio_tcp_connections_opened_total'), 1);
    assert.equal(valueOf(await counted.text(), 'istio_tcp_connections_closed_total'), 1);
  });

  it('names no principal that nobody proved', async () => {
    const counted = metrics();
    counted.closed(
      record({ direction: 'inbound', security: 'none', srcIdentity: undefined, reason: 'PLAINTEXT_DENIED' }),
    );
    const text = await counted.text();
    const labels = {
      reporter: 'destination',
      source_principal: 'unknown',
      connection_security_policy: 'unknown',
    };
    assert.equal(
      valueOf(text, 'istio_tcp_connections_closed_total', { ...labels, response_flags: 'DENY' }),
      1,
    );
    assert.equal(
      valueOf(text, 'culvert_refusals_total', { reason: 'PLAINTEXT_DENIED', direction: 'inbound' }),
      1,
    );
  });

  it('holds at most its series however many peers there are, and counts what it dropped', async () => {
    const counted = metrics();
    const peers = 1_000_000;
    for (let i = 0; i < peers; i++) {
      counted.closed(record({ direction: 'inbound', srcIdentity: identity('evil', `sa-${i}`) }));
      if (i % 100_000 === 0) await counted.text();
    }
    const text = await counted.text();
    for (const name of ['istio_tcp_connections_closed_total', 'istio_tcp_sent_bytes_total'] as const) {
      assert.equal(text.split('\n').filter((line) => line.startsWith(`${name}{`)).length, LIMIT);
      assert.equal(counted.seriesOf(name), LIMIT);
      assert.equal(valueOf(text, 'culvert_metric_series_evicted_total', { metric: name }), peers - LIMIT);
    }
    assert.match(text, /sa\/sa-999999"/, 'the latest stays');
  });

  it('caps every other metric too', async () => {
    const counted = metrics();
    for (let i = 0; i < 250; i++)
      counted.set('culvert_certificate_expiry_timestamp_seconds', { identity: `i${i}` }, i);
    const text = await counted.text();
    assert.equal([...text.matchAll(/^culvert_certificate_expiry_timestamp_seconds\{/gm)].length, LIMIT);
    const metric = 'culvert_certificate_expiry_timestamp_seconds';
    assert.equal(valueOf(text, 'culvert_metric_series_evicted_total', { metric }), 150);
  });

  it('keeps a series that is used and drops one that is not', async () => {
    const counted = metrics();
    for (let i = 0; i < 1_000; i++) {
      counted.closed(record());
      counted.closed(record({ srcIdentity: identity('shop', `sa-${i}`) }));
    }
    const labels = { source_principal: 'spiffe://cluster.local/ns/shop/sa/web' };
    assert.equal(valueOf(await counted.text(), 'istio_tcp_connections_closed_total', labels), 1_000);
  });

  it('shows workers, pods, certificates and the kernel as they stand', async () => {
    const clock = { ms: 50_000 };
    const counted = metricsAt(clock);
    const gauges = {
      connections: 3,
      held: 1,
      tunnelsOut: 2,
      tunnelsIn: 4,
      handshakes: 5,
      listeners: 6,
      loopLagP99Ms: 20,
    };
    counted.worker(1, gauges);
    const pod = {
      uid: podUid('p'),
      name: 'web',
      namespace: 'shop',
      reason: undefined,
      id: undefined,
      ips: [],
      sinceMs: 0,
    };
    counted.pods([{ ...pod, state: 'joining', olderConnections: 7 }]);
    counted.certificates([{ identity: 'gone', notAfterMs: 1_000, state: 'ready' }]);
    counted.certificates([{ identity: 'web', notAfterMs: 90_000, state: 'renewing' }]);
    counted.kernelCounters({ redirected: 10 });
    counted.kernelCounters({ redirected: 15 });
    counted.kernelCounters({ redirected: 2 });
    counted.staleness(new Map([['folder', 4_000]]));
    clock.ms += 4_000;
    const text = await counted.text();
    assert.equal(valueOf(text, 'culvert_tunnels', { worker: '1', direction: 'inbound' }), 4);
    assert.equal(valueOf(text, 'culvert_event_loop_lag_p99_seconds', { thread: 'worker-1' }), 0.02);
    assert.equal(valueOf(text, 'culvert_pods', { state: 'joining' }), 1);
    assert.equal(valueOf(text, 'culvert_pods', { state: 'enrolled' }), 0);
    assert.equal(valueOf(text, 'culvert_older_connections'), 7);
    assert.equal(valueOf(text, 'culvert_certificate_expiry_timestamp_seconds', { identity: 'web' }), 90);
    assert.doesNotMatch(text, /gone/);
    assert.equal(valueOf(text, 'culvert_kernel_events_total', { counter: 'redirected' }), 17);
    assert.equal(valueOf(text, 'culvert_watch_staleness_seconds', { source: 'folder' }), 4);
    assert.equal(valueOf(text, 'culvert_build_info', { version: '0.1.0' }), 1);
    counted.workerLost(1);
    assert.equal(valueOf(await counted.text(), 'culvert_connections_open', { worker: '1' }), 0);
    assert.equal(valueOf(await counted.text(), 'culvert_worker_restarts_total'), 1);
  });

  it('is made again at most every five seconds', async () => {
    const clock = { ms: 1_000_000 };
    const counted = metricsAt(clock, { cacheMs: 5_000 });
    const first = await counted.text();
    counted.closed(record());
    clock.ms += 4_999;
    assert.equal(await counted.text(), first);
    clock.ms += 1;
    assert.equal(valueOf(await counted.text(), 'istio_tcp_connections_closed_total'), 1);
    counted.closed(record());
    clock.ms -= 3_600_000;
    assert.equal(
      valueOf(await counted.text(), 'istio_tcp_connections_closed_total'),
      2,
      'a clock that stepped back',
    );
  });
});
