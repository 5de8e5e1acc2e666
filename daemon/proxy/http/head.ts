/** Finds the end of an HTTP/1 head in bytes that come in pieces. Only CRLF ends a line. */
import type { HttpLimits } from './limits.ts';
import { refused } from './refusal.ts';
import type { Refused } from './refusal.ts';

export interface Head {
  readonly ok: true;
  /** The lines without CRLF, the empty one left out. At least one. */
  readonly lines: readonly string[];
  /** What came behind the head. */
  readonly rest: Buffer | undefined;
}

const LF = 10;
const CR = 13;

export class HeadReader {
  readonly #limits: HttpLimits;
  #held: Buffer | undefined;
  /** Where the line begins that has not ended yet. */
  #line = 0;

  constructor(limits: HttpLimits) {
    this.#limits = limits;
  }

  get hasBegun(): boolean {
    return this.#held !== undefined;
  }

  /** @returns undefined while the head is not whole. */
  push(chunk: Buffer): Head | Refused | undefined {
    const bytes = this.#held === undefined ? chunk : Buffer.concat([this.#held, chunk]);
    for (;;) {
      const lf = bytes.indexOf(LF, this.#line);
      if (lf < 0) break;
      if (lf === 0 || bytes[lf - 1] !== CR) return refused('a line that does not end with CRLF');
      if (lf >= this.#limits.headBytes) return tooLarge();
      if (lf - 1 === this.#line) return whole(bytes, lf + 1);
      this.#line = lf + 1;
    }
    this.#held = bytes;
    return bytes.length > this.#limits.headBytes ? tooLarge() : undefined;
  }
}

function whole(bytes: Buffer, end: number): Head | Refused {
  // Nothing before the empty line: the head begins with CRLF.
  if (end <= 2) return refused('an empty line where a message should begin');
  const rest = end < bytes.length ? bytes.subarray(end) : undefined;
  return { ok: true, lines: bytes.toString('latin1', 0, end - 4).split('\r\n'), rest };
}

function tooLarge(): Refused {
  return refused('the head is too large', 431);
}
