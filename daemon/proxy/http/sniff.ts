/** Which protocol a client speaks, from its first bytes. Pure. */

import { isTls, readHello } from './sni.ts';

export interface Sniffed {
  /** `broken`: it begins as TLS does, and names no server that can be read. */
  readonly protocol: 'http1' | 'http2' | 'other' | 'broken';
  /** Of TLS, when it names a server. */
  readonly sni?: string | undefined;
}

const OTHER: Sniffed = { protocol: 'other' };
const BROKEN: Sniffed = { protocol: 'broken' };

const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'latin1');
/** A method is a token; no registered one is longer than 18 characters. */
const METHOD_START = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}( |$)/;
const REQUEST_LINE = /^\S+ .* HTTP\/\d+(\.\d+)?\r?$/;

/**
 * Tells the protocol of a connection that begins with `bytes`; undefined while more are needed. Whatever is only
 * nearly a request line counts as HTTP/1, whose parser refuses it. What is no HTTP is judged more strictly than any
 * request would be, so that a mistake here opens nothing.
 * @param maxBytes how long a request line may be.
 */
export function sniff(bytes: Buffer, maxBytes: number): Sniffed | undefined {
  if (isTls(bytes)) return sniffTls(bytes, maxBytes);
  const length = Math.min(bytes.length, PREFACE.length);
  if (bytes.compare(PREFACE, 0, length, 0, length) === 0)
    return length === PREFACE.length ? { protocol: 'http2' } : undefined;
  if (!METHOD_START.test(bytes.toString('latin1', 0, 33))) return OTHER;
  const end = bytes.indexOf(10);
  if (end < 0) return bytes.length < maxBytes ? undefined : OTHER;
  return REQUEST_LINE.test(bytes.toString('latin1', 0, end)) ? { protocol: 'http1' } : OTHER;
}

function sniffTls(bytes: Buffer, maxBytes: number): Sniffed | undefined {
  const hello = readHello(bytes, maxBytes);
  if (hello.kind === 'more') return undefined;
  return hello.kind === 'hello' ? { protocol: 'other', sni: hello.name } : BROKEN;
}

/** What a connection is whose client says no more than `bytes` for now. */
export function sniffedSoFar(bytes: Buffer): Sniffed {
  return bytes.length > 0 && isTls(bytes) ? BROKEN : OTHER;
}

/** Whether an app that speaks first does so as servers of HTTP/2 may: with SETTINGS, on stream 0. */
export function isSettings(bytes: Buffer | undefined): boolean {
  return bytes !== undefined && bytes.length >= 9 && bytes[3] === 4 && bytes.readUInt32BE(5) === 0;
}
