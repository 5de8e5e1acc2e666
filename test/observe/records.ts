/** Connection records for tests: one that is complete, and changes to it. */
import { parsePodUid, parseTrustDomain, spiffeId } from '../../daemon/mesh/ids.ts';
import type { PodUid, SpiffeId } from '../../daemon/mesh/ids.ts';
import type { ConnectionRecord } from '../../daemon/mesh/wiring.ts';

export function podUid(text: string): PodUid {
  const uid = parsePodUid(text);
  if (uid === undefined) throw new Error(`no pod UID: ${text}`);
  return uid;
}

export function identity(namespace: string, account: string): SpiffeId {
  const trustDomain = parseTrustDomain('cluster.local');
  if (trustDomain === undefined) throw new Error('no trust domain');
  return spiffeId(trustDomain, namespace, account);
}

/** An outbound connection of shop/web-1 to db.data, carried to its end. */
export function record(changes: Partial<ConnectionRecord> = {}): ConnectionRecord {
  return {
    connId: 'w0-1',
    direction: 'outbound',
    startMs: 1_000_000,
    durationMs: 12.4,
    reason: 'OK',
    detail: undefined,
    podUid: podUid('11111111-1111-1111-1111-111111111111'),
    srcAddr: '10.244.1.5:40312',
    srcWorkload: 'web-1',
    srcNamespace: 'shop',
    srcIdentity: identity('shop', 'web'),
    dstAddr: '10.96.0.20:5432',
    dstHboneAddr: '10.244.2.7:15008',
    dstService: 'db.data',
    dstWorkload: 'db-0',
    dstNamespace: 'data',
    dstIdentity: identity('data', 'db'),
    security: 'mutual_tls',
    bytesSent: 100,
    bytesReceived: 2_000,
    ...changes,
  };
}
