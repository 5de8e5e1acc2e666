import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Conversation, Ends } from './ends.ts';

export class Http2 implements Conversation {
  readonly ownsEnds = true;
  constructor(ends: Ends, _client: Duplex, _upstream: Socket) {
    ends.cut('INTERNAL', 'HTTP/2 is not built yet');
  }
  rejudge(): void {}
  abandon(): void {}
}
