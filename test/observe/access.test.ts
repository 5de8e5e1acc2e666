import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { z } from 'zod';
import { Refusals, accessFields, isRefusal, writeAccess } from '../../daemon/observe/access.ts';
import { createLog } from '../../daemon/observe/log.ts';
import type { LogFields } from '../../daemon/observe/log.ts';
import { podUid, record } from './records.ts';

describe('an access record', () => {
  it("has ztunnel's field names", () => {
    assert.deepEqual(written(accessFields(record())), {
      conn_id: 'w0-1',
      'src.addr': '10.244.1.5:40312',
      'src.workload': 'web-1',
      'src.namespace': 'shop',
      'src.identity': 'spiffe://cluster.local/ns/shop/sa/web',
      'dst.addr': '10.96.0.20:5432',
      'dst.hbone_addr': '10.244.2.7:15008',
      'dst.service': 'db.data',
      'dst.workload': 'db-0',
      'dst.namespace': 'data',
      'dst.identity': 'spiffe://cluster.local/ns/data/sa/db',
      direction: 'outbound',
      security: 'mutual_tls',
      bytes_sent: 100,
      bytes_recv: 2_000,
      duration: '12ms',
      reason: 'OK',
      flag: '-',
    });
  });

  it('leaves out what is not known, says what went wrong, and tames what the peer wrote', () => {
    const fields = written(
      accessFields(
        record({
          reason: 'PLAINTEXT_DENIED',
          srcIdentity: undefined,
          detail: 'x\n{"forged":1}',
          dstService: undefined,
        }),
      ),
    );
    assert.ok(!('src.identity' in fields) && !('dst.service' in fields));
    assert.equal(fields['flag'], 'DENY');
    assert.match(String(fields['error']), /STRICT/);
    assert.equal(fields['detail'], 'x\\u{a}{"forged":1}');
  });

  it('is one line at the level of its reason', () => {
    const lines: string[] = [];
    const log = createLog({
      thread: 'main',
      level: 'warn',
      destination: { write: (line) => lines.push(line) },
    });
    writeAccess(log, [record(), record({ reason: 'PLAINTEXT_DENIED' })]);
    assert.equal(lines.length, 1);
    assert.match(lines[0] ?? '', /"level":"warn".*"reason":"PLAINTEXT_DENIED".*"msg":"connection complete"/);
  });
});

/** What JSON leaves of fields. */
function written(fields: LogFields): Record<string, unknown> {
  return z.record(z.string(), z.unknown()).parse(JSON.parse(JSON.stringify(fields)));
}

describe('refusals', () => {
  it('are what was turned away, not what ended', () => {
    assert.equal(isRefusal('OK'), false);
    assert.equal(isRefusal('UPSTREAM_RESET'), false);
    assert.equal(isRefusal('POLICY_DENIED'), true);
    assert.equal(isRefusal('UPSTREAM_CONNECT_FAILED'), true);
  });

  it('of one kind are counted, whatever the client port', () => {
    const refusals = new Refusals();
    refusals.record(record());
    for (let i = 0; i < 3; i++)
      refusals.record(
        record({
          reason: 'NO_ENDPOINTS',
          startMs: 1_000 * i,
          durationMs: 1,
          srcAddr: `10.0.0.1:${4_000 + i}`,
        }),
      );
    assert.equal(refusals.list().length, 1);
    assert.partialDeepStrictEqual(refusals.list()[0], {
      reason: 'NO_ENDPOINTS',
      count: 3,
      firstMs: 1,
      lastMs: 2_001,
      source: 'shop/web-1',
      destination: 'db.data',
    });
  });

  it('are bounded per pod and in all, the latest kept', () => {
    const refusals = new Refusals();
    for (let pod = 0; pod < 600; pod++)
      for (let i = 0; i < 8; i++)
        refusals.record(
          record({
            podUid: podUid(`pod-${pod}`),
            reason: 'NO_ENDPOINTS',
            dstService: `s${i}.x`,
            startMs: pod * 10 + i,
          }),
        );
    const list = refusals.list();
    assert.equal(list.length, 512 * 5);
    assert.partialDeepStrictEqual(list[0], { podUid: 'pod-599', destination: 's7.x' });
    assert.ok(list.every(({ podUid: uid }) => uid !== 'pod-0'));
    refusals.forget(podUid('pod-599'));
    assert.equal(refusals.list().length, 511 * 5);
  });
});
