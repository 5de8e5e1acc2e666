/** Lines of a stream, with a bound: a file of any size is read in little memory. */

export interface Line {
  /** From 1. */
  readonly number: number;
  /** undefined: longer than the bound, or not UTF-8. */
  readonly text: string | undefined;
  readonly problem: string | undefined;
}

const NEWLINE = 0x0a;
/** A case with thousands of policies is some megabytes. */
export const MAX_LINE_BYTES = 16 * 1_048_576;

/** Each line of `chunks`, in order; an empty rest behind the last newline is none. @throws as `chunks` does. */
export async function* linesOf(
  chunks: AsyncIterable<Uint8Array>,
  maxBytes = MAX_LINE_BYTES,
): AsyncGenerator<Line> {
  let number = 1;
  let parts: Uint8Array[] = [];
  let size = 0;
  const take = (part: Uint8Array): void => {
    size += part.length;
    if (size <= maxBytes) parts.push(part);
    else parts = [];
  };
  const end = (): Line => {
    const line = size > maxBytes ? tooLong(number, maxBytes) : decoded(number, parts);
    number++;
    parts = [];
    size = 0;
    return line;
  };
  for await (const chunk of chunks) {
    let start = 0;
    for (let at = chunk.indexOf(NEWLINE); at >= 0; at = chunk.indexOf(NEWLINE, start)) {
      take(chunk.subarray(start, at));
      start = at + 1;
      yield end();
    }
    take(chunk.subarray(start));
  }
  if (size > 0) yield end();
}

function decoded(number: number, parts: readonly Uint8Array[]): Line {
  try {
    // A byte order mark is taken off.
    const text = new TextDecoder('utf-8', { fatal: true }).decode(Buffer.concat(parts));
    return { number, text, problem: undefined };
  } catch {
    return { number, text: undefined, problem: 'is not UTF-8' };
  }
}

function tooLong(number: number, maxBytes: number): Line {
  return { number, text: undefined, problem: `is longer than ${maxBytes} bytes` };
}
