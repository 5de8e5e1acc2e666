/** A stream's bytes → its lines, each bounded. */

/** A line was longer than allowed: what follows can't be trusted to be the server's. */
export class LineTooLong extends Error {
  override readonly name = 'LineTooLong';
}

/** The complete lines of each chunk of `stream`, without those that are empty. @throws LineTooLong */
export async function* linesOf(
  stream: AsyncIterable<Uint8Array>,
  maxBytes: number,
): AsyncGenerator<readonly string[], void, undefined> {
  let rest: Uint8Array[] = [];
  let restBytes = 0;
  for await (const chunk of stream) {
    const end = chunk.lastIndexOf(NEWLINE);
    if (end >= 0) {
      const whole = Buffer.concat([...rest, chunk.subarray(0, end)]);
      rest = [];
      restBytes = 0;
      const lines = whole.toString().split('\n');
      if (lines.some((line) => line.length > maxBytes)) throw tooLong(maxBytes);
      yield lines.filter((line) => line.trim() !== '');
    }
    // A copy: the chunk may be a small part of a large buffer.
    const tail = Uint8Array.from(chunk.subarray(end + 1));
    restBytes += tail.length;
    if (restBytes > maxBytes) throw tooLong(maxBytes);
    if (tail.length > 0) rest.push(tail);
  }
}

const NEWLINE = 0x0a;

function tooLong(maxBytes: number): LineTooLong {
  return new LineTooLong(`a line of a watch is longer than ${maxBytes} bytes`);
}
