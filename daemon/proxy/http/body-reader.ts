/** What takes a body of HTTP/1 off the bytes that carry it: what goes on, and where it ends. No code. */
import type { Refused } from './refusal.ts';

export interface Taken {
  readonly ok: true;
  /** In the form in which it goes on. */
  readonly out: readonly Buffer[];
  /** The body is complete. */
  readonly done: boolean;
  /** What came behind it. */
  readonly rest: Buffer | undefined;
}

export interface BodyReader {
  readonly done: boolean;
  push(chunk: Buffer): Taken | Refused;
}
