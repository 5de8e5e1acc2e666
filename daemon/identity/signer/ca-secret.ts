/** Secret culvert-ca as text and back, and the mark on it that tells a CA that we made from one that the user supplied. Pure. */
import { hash } from 'node:crypto';
import { z } from 'zod';
import type { IssuerPems } from './issuer.ts';

/**
 * On the Secret, when we made it: by which request, or `first`, then the SHA-256 of the `tls.crt` that we put there.
 * `kubectl apply` and cert-manager replace the data and leave foreign annotations: with another `tls.crt`, as without
 * the mark, the Secret is the user's own.
 */
export const MADE_FOR = 'culvert.dev/made-for';
/** A request may be any text. */
const MARK = /^(?<request>[^]*) (?<hash>[0-9a-f]{64})$/;

export const secretSchema = z.looseObject({
  metadata: z.looseObject({
    resourceVersion: z.string(),
    annotations: z.record(z.string(), z.string()).nullish(),
  }),
  data: z.record(z.string(), z.string()).nullish(),
});

export interface CaSecret {
  readonly pems: IssuerPems;
  /** undefined: the user supplied it. */
  readonly madeFor: string | undefined;
  /** The mark is that of an earlier version, without a hash, and tells less than it should. */
  readonly hasOldMark: boolean;
  readonly version: string;
}

/** The CA in the JSON of its Secret. @throws ZodError when it is no Secret. */
export function readCaSecret(object: unknown): CaSecret {
  const { metadata, data } = secretSchema.parse(object);
  const pems = pemsIn(data);
  const mark = metadata.annotations?.[MADE_FOR];
  const found = mark === undefined ? undefined : MARK.exec(mark)?.groups;
  const hasOldMark = mark !== undefined && found === undefined;
  const isAsWeLeftIt = found?.['hash'] === hashOf(pems);
  const madeFor = hasOldMark ? mark : isAsWeLeftIt ? found['request'] : undefined;
  return { pems, madeFor, hasOldMark, version: metadata.resourceVersion };
}

/** What stands at `MADE_FOR` on a Secret with `pems`. */
export function markOf(madeFor: string, pems: IssuerPems): string {
  return `${madeFor} ${hashOf(pems)}`;
}

/** The PEM texts in a Secret's data; '' for what is not there. */
export function pemsIn(data: Readonly<Record<string, string>> | null | undefined): IssuerPems {
  const text = (key: string): string => Buffer.from(data?.[key] ?? '', 'base64').toString('latin1');
  return { certificates: text('tls.crt'), key: text('tls.key'), roots: text('ca.crt') };
}

/** A Secret's data with `pems`. */
export function dataOf(pems: IssuerPems): Record<string, string> {
  const encode = (text: string): string => Buffer.from(text, 'latin1').toString('base64');
  return { 'tls.crt': encode(pems.certificates), 'tls.key': encode(pems.key), 'ca.crt': encode(pems.roots) };
}

function hashOf({ certificates }: IssuerPems): string {
  return hash('sha256', Buffer.from(certificates, 'latin1'), 'hex');
}
