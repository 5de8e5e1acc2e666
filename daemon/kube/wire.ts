/** Lists and watches in JSON. */
import { parseEvent, parsePage } from './objects.ts';
import { linesOf } from './lines.ts';
import type { Wire } from './seams.ts';

/** Every kind has it. */
export const JSON_WIRE: Wire = {
  mediaType: 'application/json',
  page: (bytes) =>
    parsePage(JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString())),
  async *events(stream, maxBytes) {
    for await (const lines of linesOf(stream, maxBytes))
      yield lines.map((line) => () => parseEvent(JSON.parse(line)));
  },
};
