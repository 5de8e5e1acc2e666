/** How lists and watches are written: JSON here, which every kind has; protobuf.ts for the kinds that the API knows itself. */
import type { ListPage, WatchEvent } from './objects.ts';
import { parseEvent, parsePage } from './objects.ts';
import { linesOf } from './lines.ts';

export interface Wire {
  /** Media type of a list; of a watch with `;stream=watch`. */
  readonly mediaType: string;
  /** @throws when it is no list. */
  page(bytes: Uint8Array): ListPage;
  /** Whole events, as they come. @throws as `objects.ts` parseEvent, or when one is longer than `maxBytes`. */
  events(stream: AsyncIterable<Uint8Array>, maxBytes: number): AsyncIterable<readonly (() => WatchEvent)[]>;
}

export const JSON_WIRE: Wire = {
  mediaType: 'application/json',
  page: (bytes) =>
    parsePage(JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString())),
  async *events(stream, maxBytes) {
    for await (const lines of linesOf(stream, maxBytes))
      yield lines.map((line) => () => parseEvent(JSON.parse(line)));
  },
};
