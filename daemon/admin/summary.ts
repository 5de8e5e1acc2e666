/** What a node says of itself on its daemon's own pod (`culvert.dev/node`): for `culvert status` and `certs` of a cluster. Pure. */
import type { PodStatus } from '../mesh/wiring.ts';
import type { CertificateStatus } from './backend.ts';

export interface SummaryParts {
  readonly version: string;
  /** Hash of the roots in use, where they come from a bundle. */
  readonly bundle: string | undefined;
  /** Certificates in use by the hash of their root: a rotation of the CA waits until none is of the old one. */
  readonly issuers: Readonly<Record<string, number>>;
  readonly pods: readonly PodStatus[];
  readonly certificates: readonly (CertificateStatus & {
    readonly source: string;
    readonly nextRenewalMs: number | undefined;
  })[];
  /** Every pod has left, and no program or pin of ours is on the node. */
  readonly left: boolean;
}

/** All annotations of an object may have 256 KiB. */
const MAX_BYTES = 64 * 1024;
const MAX_ERROR = 300;

/** JSON of at most 64 KiB; `more` certificates did not fit. The same parts give the same text. */
export function nodeSummary(parts: SummaryParts): string {
  const { version, bundle, issuers, pods, certificates, left } = parts;
  const counts: Record<string, number> = { labelled: pods.length, enrolled: 0 };
  for (const { state } of pods) counts[state] = (counts[state] ?? 0) + 1;
  const head = { version, bundle: bundle ?? null, issuers, pods: counts, left };
  let bytes = Buffer.byteLength(JSON.stringify(head)) + '"certificates":[],"more":1000000,'.length;
  const kept: object[] = [];
  for (const one of certificates.toSorted((a, b) => (a.identity < b.identity ? -1 : 1))) {
    const entry = {
      id: one.identity,
      serial: one.serial ?? null,
      notBefore: time(one.notBeforeMs),
      notAfter: time(one.notAfterMs),
      source: one.source,
      state: one.state,
      nextRenewal: time(one.nextRenewalMs),
      ...(one.error === undefined ? {} : { error: one.error.slice(0, MAX_ERROR) }),
    };
    bytes += Buffer.byteLength(JSON.stringify(entry)) + 1;
    if (bytes > MAX_BYTES) break;
    kept.push(entry);
  }
  const more = certificates.length - kept.length;
  return JSON.stringify({ ...head, certificates: kept, ...(more === 0 ? {} : { more }) });
}

/** Whole seconds: what is counted from now would differ each time it is asked for. */
function time(ms: number | undefined): string | null {
  return ms === undefined ? null : new Date(Math.round(ms / 1_000) * 1_000).toISOString();
}
