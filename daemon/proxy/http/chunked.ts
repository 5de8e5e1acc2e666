/**
 * The chunked coding (RFC 9112 section 7.1), read strictly. What goes on has no chunk extensions and nothing that two
 * readers could read in two ways; bytes of the data are not looked at.
 */
import type { BodyReader, Taken } from './body-reader.ts';
import { parseFields } from './fields.ts';
import type { HttpLimits } from './limits.ts';
import { refused } from './refusal.ts';
import type { Refused } from './refusal.ts';

const LF = 10;
const CR = 13;
const CRLF = Buffer.from('\r\n', 'latin1');
/** Size, and extensions without quoted CR, LF or controls. No space before the `;`. */
const SIZE_LINE = /^([0-9A-Fa-f]{1,8})((?:;[\t\x20-\x7e\x80-\xff]*)?)\r\n$/;
/** 32-bit readers exist. */
const MAX_CHUNK = 0x7fff_ffff;
const MAX_SIZE_LINE = 1_024;
/** Fields that frame, route or authorise: not to be had from a trailer (RFC 9110 section 6.5.1). */
const NOT_IN_TRAILERS =
  /^(transfer[-_]encoding|content[-_]length|content-encoding|content-type|content-range|host|connection|trailer|upgrade|te|expect|authorization|cookie|set-cookie|max-forwards|cache-control)$/;

type State = 'size' | 'data' | 'data-end' | 'trailers' | 'done';

export class ChunkedBody implements BodyReader {
  readonly #limits: HttpLimits;
  #state: State = 'size';
  /** Bytes of the chunk still to come; of its CRLF in `data-end`. */
  #left = 0;
  /** A line that has begun in an earlier piece. */
  #line = '';
  #trailers: string[] = [];
  #trailerBytes = 0;
  #extensionBytes = 0;
  /** Of the piece in hand: where it is read, and from where it goes on unchanged. */
  #at = 0;
  #kept = 0;
  #out: Buffer[] = [];

  constructor(limits: HttpLimits) {
    this.#limits = limits;
  }

  get done(): boolean {
    return this.#state === 'done';
  }

  push(chunk: Buffer): Taken | Refused {
    this.#at = 0;
    this.#kept = 0;
    this.#out = [];
    while (this.#at < chunk.length && this.#state !== 'done') {
      const problem = this.#step(chunk);
      if (problem !== undefined) return problem;
    }
    this.#pass(chunk);
    const rest = this.#at < chunk.length ? chunk.subarray(this.#at) : undefined;
    return { ok: true, out: this.#out, done: this.done, rest };
  }

  #step(chunk: Buffer): Refused | undefined {
    if (this.#state === 'data') {
      const taken = Math.min(this.#left, chunk.length - this.#at);
      this.#at += taken;
      this.#left -= taken;
      if (this.#left > 0) return undefined;
      this.#state = 'data-end';
      this.#left = CRLF.length;
      return undefined;
    }
    if (this.#state === 'data-end') {
      if (chunk[this.#at] !== CRLF[CRLF.length - this.#left]) return refused('a chunk longer than its size');
      this.#at += 1;
      this.#left -= 1;
      if (this.#left === 0) this.#state = 'size';
      return undefined;
    }
    return this.#stepLine(chunk);
  }

  #stepLine(chunk: Buffer): Refused | undefined {
    const start = this.#at;
    const lf = chunk.indexOf(LF, start);
    const end = lf < 0 ? chunk.length : lf + 1;
    const isWhole = this.#line === '' && lf >= 0;
    const max = this.#state === 'size' ? MAX_SIZE_LINE : this.#limits.trailerBytes;
    if (this.#line.length + end - start > max) return refused('a line of the chunked coding is too long');
    const line = this.#line + chunk.toString('latin1', start, end);
    if (lf < 0) {
      this.#pass(chunk);
      this.#skip(end);
      this.#line = line;
      return undefined;
    }
    this.#line = '';
    return this.#state === 'size'
      ? this.#sizeLine(chunk, line, end, isWhole)
      : this.#trailerLine(chunk, line, end, isWhole);
  }

  #sizeLine(chunk: Buffer, line: string, end: number, isWhole: boolean): Refused | undefined {
    const [, digits, extension = ''] = SIZE_LINE.exec(line) ?? [];
    const size = digits === undefined ? Number.NaN : Number.parseInt(digits, 16);
    if (!(size <= MAX_CHUNK)) return refused('a chunk size that is none');
    this.#extensionBytes += extension.length;
    if (this.#extensionBytes > this.#limits.trailerBytes) return refused('too many chunk extensions');
    if (isWhole && extension === '') this.#at = end;
    else this.#replace(chunk, end, `${size.toString(16)}\r\n`);
    this.#state = size === 0 ? 'trailers' : 'data';
    this.#left = size;
    return undefined;
  }

  #trailerLine(chunk: Buffer, line: string, end: number, isWhole: boolean): Refused | undefined {
    if (line === '\r\n') {
      this.#state = 'done';
      if (isWhole && this.#trailers.length === 0) this.#at = end;
      else this.#replace(chunk, end, [...this.#trailers, '\r\n'].join(''));
      return undefined;
    }
    if (line.length < 2 || line.charCodeAt(line.length - 2) !== CR) return refused('a trailer without CRLF');
    const fields = parseFields([line.slice(0, -2)], this.#limits);
    if ('ok' in fields) return refused('a trailer that is no field');
    this.#trailerBytes += line.length;
    if (this.#trailerBytes > this.#limits.trailerBytes) return refused('too many trailers');
    for (const { name, key, value } of fields) {
      if (NOT_IN_TRAILERS.test(key)) return refused(`${key} in a trailer`);
      this.#trailers.push(`${name}: ${value}\r\n`);
    }
    this.#pass(chunk);
    this.#skip(end);
    return undefined;
  }

  /** What has been read goes on as it came. */
  #pass(chunk: Buffer): void {
    if (this.#kept < this.#at) this.#out.push(chunk.subarray(this.#kept, this.#at));
    this.#kept = this.#at;
  }

  /** What lies before `end` does not go on. */
  #skip(end: number): void {
    this.#at = end;
    this.#kept = end;
  }

  #replace(chunk: Buffer, end: number, text: string): void {
    this.#pass(chunk);
    this.#skip(end);
    this.#out.push(Buffer.from(text, 'latin1'));
  }
}
