/**
 * Two ends and the bytes between them: counters, half-close each way, a close reason, and nothing that looks at the
 * bytes. This is the seam at which a native relay may take over (DESIGN.md section 8).
 */
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { constants } from 'node:http2';
import type { Http2Stream } from 'node:http2';
import type { Reason } from '../errors.ts';
import { writeInTurn } from './cork.ts';
import { isTunnelLost, TunnelLostError } from './hbone/session.ts';
import type { Relay, RelayResult } from './seams.ts';

export interface RelayOptions {
  /** How long the open direction may stay silent once the other has ended. */
  readonly halfClosedTimeoutMs: number;
  /** What has been read of both ends already, by somebody who looked at it first. */
  readonly begun?: Begun;
}

export interface Begun {
  readonly fromA: readonly Buffer[];
  readonly fromB: readonly Buffer[];
  readonly aHasEnded: boolean;
  readonly bHasEnded: boolean;
}

/** What one direction may hold in user space before its source is paused. */
const MAX_QUEUED_BYTES = 512 * 1024;

/**
 * Carries bytes both ways between `a`, the side that asked, and `b`, until both directions have ended or one side
 * breaks. Both must be `allowHalfOpen`, must have an error listener already, and are owned by the relay from here on.
 */
export function relay(a: Duplex, b: Duplex, options: RelayOptions): Relay {
  return new TwoEnds(a, b, options);
}

/** A tunnel's stream or a TCP socket: they break in different ways. */
type Kind = 'socket' | 'stream';

class TwoEnds implements Relay {
  readonly done: Promise<RelayResult>;
  readonly #forward: Direction;
  readonly #back: Direction;
  readonly #halfClosedTimeoutMs: number;
  #resolve: (result: RelayResult) => void = () => undefined;
  #reason: Reason = 'OK';
  #detail: string | undefined;
  #closed = 0;
  /** One side has ended and wants no more: what the other has not said yet is lost on its account. */
  #leftFirst: Reason | undefined;
  #silence: NodeJS.Timeout | undefined;

  constructor(a: Duplex, b: Duplex, options: RelayOptions) {
    this.done = new Promise((resolve) => {
      this.#resolve = resolve;
    });
    this.#halfClosedTimeoutMs = options.halfClosedTimeoutMs;
    this.#forward = new Direction(this, a, b);
    this.#back = new Direction(this, b, a);
    this.#watch(this.#forward, this.#back, 'CLIENT_RESET');
    this.#watch(this.#back, this.#forward, 'UPSTREAM_RESET');
    const { begun } = options;
    this.#forward.start(begun?.fromA ?? [], begun?.aHasEnded ?? false);
    this.#back.start(begun?.fromB ?? [], begun?.bHasEnded ?? false);
  }

  get bytesSent(): number {
    return this.#forward.bytes;
  }

  get bytesReceived(): number {
    return this.#back.bytes;
  }

  cut(reason: Reason, detail?: string): void {
    if (this.#reason !== 'OK' || this.#closed === 2) return;
    this.#reason = reason;
    this.#detail = detail;
    reset(this.#forward.source);
    reset(this.#back.source);
  }

  /** Bytes moved in a direction of a half-closed connection: the other side is not silent. */
  touch(): void {
    this.#silence?.refresh();
  }

  get bothEnded(): boolean {
    return this.#forward.hasEnded && this.#back.hasEnded;
  }

  /** One direction has ended. */
  ended(): void {
    this.#silence ??= setTimeout(() => this.cut('HALF_CLOSED_TIMEOUT'), this.#halfClosedTimeoutMs);
  }

  /** Watches the end that `from` reads and `to` writes. */
  #watch(from: Direction, to: Direction, reason: Reason): void {
    const end = from.source;
    if (end.destroyed) {
      // It broke between its answer and now; its 'close' may have been and gone.
      setImmediate(() => {
        this.#broke(end, reason, undefined);
        this.#oneClosed();
      });
      return;
    }
    // Each event below comes once; `once` would cost a listener more, and a stream of http2 counts them by events.
    end.on('close', () => {
      const failure = end.errored ?? undefined;
      if (failure !== undefined || !from.hasEnded || isAborted(end)) this.#broke(end, reason, failure);
      // It has said all, and wants no more: the other side gets what is still on its way to it.
      else if (!to.hasEnded) {
        this.#leftFirst = reason;
        closeWhenFinished(to.source);
      }
      this.#oneClosed();
    });
  }

  #broke(end: Duplex, reason: Reason, failure: Error | undefined): void {
    const lost = kindOf(end) === 'stream' && isTunnelLost(end, failure);
    this.cut(
      lost ? 'TUNNEL_LOST' : (this.#leftFirst ?? reason),
      failure === undefined ? undefined : describe(failure),
    );
  }

  #oneClosed(): void {
    if (++this.#closed < 2) return;
    clearTimeout(this.#silence);
    this.#resolve({
      bytesSent: this.bytesSent,
      bytesReceived: this.bytesReceived,
      reason: this.#reason,
      detail: this.#detail,
    });
  }
}

/** One direction: reads `source`, writes `sink`, never holds more than MAX_QUEUED_BYTES and one read. */
class Direction {
  readonly source: Duplex;
  bytes = 0;
  hasEnded = false;
  #hearsDrain = false;
  readonly #sink: Duplex;
  readonly #owner: TwoEnds;
  readonly #isSocket: boolean;

  constructor(owner: TwoEnds, source: Duplex, sink: Duplex) {
    this.#owner = owner;
    this.source = source;
    this.#sink = sink;
    this.#isSocket = kindOf(sink) === 'socket';
  }

  start(begun: readonly Buffer[], hasEnded: boolean): void {
    for (const chunk of begun) this.#carry(chunk);
    if (hasEnded) {
      this.#end();
      return;
    }
    this.source.on('data', (chunk: Buffer) => this.#carry(chunk));
    this.source.on('end', () => this.#end());
    // Accepted sockets come paused (pauseOnConnect), and a listener does not undo that.
    this.source.resume();
  }

  #carry(chunk: Buffer): void {
    const sink = this.#sink;
    this.bytes += chunk.length;
    this.#owner.touch();
    // A tunnel's session gathers the frames of a turn by itself.
    const goOn = this.#isSocket ? writeInTurn(sink, chunk) : sink.write(chunk);
    if (goOn) return;
    if (!this.#hearsDrain) {
      this.#hearsDrain = true;
      sink.on('drain', () => this.#drained());
    }
    // 'drain' follows every write that returned false, so that pausing later than it asks for is safe.
    if (sink.writableLength >= MAX_QUEUED_BYTES) this.source.pause();
  }

  #drained(): void {
    this.#owner.touch();
    if (this.source.isPaused()) this.source.resume();
  }

  #end(): void {
    this.hasEnded = true;
    // The close of a socket that has nothing more to say, and has heard all, is its FIN: one system call, not two.
    if (this.#isSocket && this.#owner.bothEnded && this.#sink.writableLength === 0) this.#sink.destroy();
    else this.#sink.end();
    this.#owner.ended();
  }
}

function closeWhenFinished(end: Duplex): void {
  if (end.writableFinished) end.destroy();
  else end.once('finish', () => end.destroy());
}

function kindOf(end: Duplex): Kind {
  return end instanceof Socket ? 'socket' : 'stream';
}

/**
 * RST, or RST_STREAM. A stream is destroyed with an error (RST_STREAM INTERNAL_ERROR): its close(code) would send
 * END_STREAM first, and CANCEL is a clean end to ztunnel; either way the app behind would take half an answer for a
 * whole one.
 */
export function reset(end: Duplex): void {
  if (end.destroyed) return;
  if (!(end instanceof Socket)) end.destroy(new Error('the connection was reset'));
  // libuv does not reset a socket whose FIN is on its way, and node would never say that it has closed.
  else if (end.writableEnded && !end.writableFinished) end.destroy();
  else end.resetAndDestroy();
}

function isHttp2Stream(end: Duplex): end is Duplex & Http2Stream {
  return 'rstCode' in end;
}

/**
 * Whether a stream that closed without an error was reset. NO_ERROR is an end (HBONE.md 3.11); so is CANCEL, but
 * only after END_STREAM, which `Direction.hasEnded` tells: before it, bytes are missing.
 */
function isAborted(end: Duplex): boolean {
  return (
    isHttp2Stream(end) &&
    end.rstCode !== constants.NGHTTP2_NO_ERROR &&
    end.rstCode !== constants.NGHTTP2_CANCEL
  );
}

function describe(error: Error): string {
  if (error instanceof TunnelLostError) return error.message;
  return 'code' in error && typeof error.code === 'string' ? error.code : error.message.slice(0, 120);
}
