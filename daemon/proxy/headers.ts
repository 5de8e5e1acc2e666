/** Headers of our CONNECT (HBONE.md 3.7). The source's identity is never among them: only the certificate says it. */
import { randomBytes } from 'node:crypto';
import type { LocalPod } from '../mesh/wiring.ts';

/** `forwarded`, `baggage` and `traceparent` for one connection of `pod`. */
export function forwardingHeaders(
  clientAddr: string,
  pod: LocalPod,
  service: { readonly name: string; readonly namespace: string } | undefined,
): Record<string, string> {
  const host = service === undefined ? '' : `;host=${service.name}.${service.namespace}.svc.cluster.local`;
  return {
    forwarded: `for="${clientAddr}"${host}`,
    baggage: `k8s.namespace.name=${pod.namespace},k8s.pod.name=${pod.name}`,
    traceparent: traceparent(),
  };
}

/** W3C trace context: a trace of its own per connection, not sampled. 24 random bytes are drawn 128 at a time. */
function traceparent(): string {
  if (used + 24 > pool.length) {
    pool = randomBytes(24 * 128);
    used = 0;
  }
  const hex = pool.toString('hex', used, used + 24);
  used += 24;
  return `00-${hex.slice(0, 32)}-${hex.slice(32)}-00`;
}

let pool = Buffer.alloc(0);
let used = 0;
