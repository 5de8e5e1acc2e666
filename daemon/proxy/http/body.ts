/** Takes a body of HTTP/1 off the bytes that carry it. Pure. */
import type { BodyReader, Taken } from './body-reader.ts';
import { ChunkedBody } from './chunked.ts';
import type { Framing } from './framing.ts';
import type { HttpLimits } from './limits.ts';

/** A reader for one body. That of one which lasts until the end of the connection is never done. */
export function bodyReader(framing: Framing, limits: HttpLimits): BodyReader {
  if (framing.kind === 'chunked') return new ChunkedBody(limits);
  if (framing.kind === 'length') return new CountedBody(framing.length);
  return new CountedBody(framing.kind === 'none' ? 0 : Number.POSITIVE_INFINITY);
}

class CountedBody implements BodyReader {
  #left: number;

  constructor(length: number) {
    this.#left = length;
  }

  get done(): boolean {
    return this.#left === 0;
  }

  push(chunk: Buffer): Taken {
    if (chunk.length <= this.#left) {
      this.#left -= chunk.length;
      return { ok: true, out: [chunk], done: this.done, rest: undefined };
    }
    const end = this.#left;
    this.#left = 0;
    return {
      ok: true,
      out: end === 0 ? [] : [chunk.subarray(0, end)],
      done: true,
      rest: chunk.subarray(end),
    };
  }
}
