/**
 * HTTP at the node: the connections to ports that a policy with HTTP content applies to. The first bytes tell the
 * protocol; then every request is judged before one byte of it reaches the app (SEMANTICS.md 1.10).
 */
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Reason } from '../../errors.ts';
import type { HttpRequest } from '../../mesh/policy/model.ts';
import type { PathNormalization } from '../../mesh/policy/path.ts';
import { relay, reset } from '../relay.ts';
import type { Relay, RelayResult } from '../seams.ts';
import type { Conversation, Ends, Judge } from './ends.ts';
import { Http1 } from './http1.ts';
import { Http2 } from './http2.ts';
import { HTTP_LIMITS } from './limits.ts';
import type { HttpLimits } from './limits.ts';
import { Outlet } from './outlet.ts';
import { isSettings, sniff, sniffedSoFar } from './sniff.ts';
import type { Sniffed } from './sniff.ts';
import { ByteSource } from './source.ts';

export interface HttpRelayOptions {
  readonly halfClosedTimeoutMs: number;
  /** How long a client may be silent before its connection counts as not HTTP. */
  readonly sniffTimeoutMs: number;
  readonly normalization: PathNormalization;
  /** Asked once per request, when it comes, and again by `rejudge`. */
  readonly judge: Judge;
  readonly limits?: Partial<HttpLimits>;
}

export interface HttpRelay extends Relay {
  /** Judges again what goes on at the moment (a tunnel, an answer that lasts, streams of HTTP/2), and cuts what is denied. */
  rejudge(): void;
}

/**
 * As `relay`, for a port with HTTP rules: carries what `judge` allows, and answers the rest itself. `client` and
 * `upstream` must be `allowHalfOpen` and have an error listener already; nothing has been read of them.
 */
export function relayHttp(client: Duplex, upstream: Socket, options: HttpRelayOptions): HttpRelay {
  return new HttpConnection(client, upstream, options);
}

/** What bytes that are carried unread were judged by. */
interface Judged {
  readonly http: HttpRequest | undefined;
  readonly sni?: string | undefined;
}

class HttpConnection implements HttpRelay, Ends {
  readonly done: Promise<RelayResult>;
  readonly fromClient: ByteSource;
  readonly fromUpstream: ByteSource;
  readonly toClient: Outlet;
  readonly toUpstream: Outlet;
  readonly judge: Judge;
  readonly normalization: PathNormalization;
  readonly limits: HttpLimits;
  readonly #client: Duplex;
  readonly #upstream: Socket;
  readonly #options: HttpRelayOptions;
  #resolve: (result: RelayResult) => void = () => undefined;
  #reason: Reason = 'OK';
  #detail: string | undefined;
  /** Nothing more is carried; what is left is to close. */
  #isOver = false;
  #closed = 0;
  #denials = 0;
  #lastDenial = '';
  #raw: Relay | undefined;
  /** What the raw bytes were judged by. */
  #rawFor: Judged = { http: undefined };
  #conversation: Conversation | undefined;
  #silence: NodeJS.Timeout | undefined;

  constructor(client: Duplex, upstream: Socket, options: HttpRelayOptions) {
    this.#client = client;
    this.#upstream = upstream;
    this.#options = options;
    this.judge = options.judge;
    this.normalization = options.normalization;
    this.limits = { ...HTTP_LIMITS, ...options.limits };
    this.done = new Promise((resolve) => {
      this.#resolve = resolve;
    });
    this.toClient = new Outlet(client);
    this.toUpstream = new Outlet(upstream);
    this.fromClient = new ByteSource(client);
    this.fromUpstream = new ByteSource(upstream);
    this.#watch(client, this.fromClient, 'CLIENT_RESET');
    this.#watch(upstream, this.fromUpstream, 'UPSTREAM_RESET');
    void this.#serve();
  }

  get bytesSent(): number {
    return this.#upstream.bytesWritten;
  }

  get bytesReceived(): number {
    return this.#upstream.bytesRead;
  }

  rejudge(): void {
    if (this.#isOver) return;
    if (this.#raw === undefined) {
      this.#conversation?.rejudge();
      return;
    }
    const verdict = this.judge(this.#rawFor.http, this.#rawFor.sni);
    if (!verdict.allowed) this.cut('POLICY_DENIED', verdict.detail);
  }

  cut(reason: Reason, detail?: string): void {
    if (this.#closed === 2) return;
    if (this.#raw !== undefined) {
      this.#raw.cut(reason, detail);
      return;
    }
    this.#settle(reason, detail);
    reset(this.#client);
    reset(this.#upstream);
    this.#conversation?.abandon();
  }

  denied(detail: string): void {
    this.#denials += 1;
    this.#lastDenial = detail;
  }

  finish(reason: Reason, detail?: string): void {
    if (this.#isOver) return;
    this.#settle(reason, detail);
    // What the app got of a request that goes no further must not pass for a whole one.
    if (reason === 'OK') this.#upstream.destroy();
    else reset(this.#upstream);
    const client = this.#client;
    client.end();
    // A reset while it still sends could overtake our last answer.
    const linger = setTimeout(() => client.destroy(), this.limits.lingerMs);
    client.once('close', () => clearTimeout(linger));
  }

  tunnel(http: HttpRequest): void {
    if (!this.#isOver) this.#carryRaw({ http });
  }

  #carryRaw(judgedBy: Judged): void {
    const { halfClosedTimeoutMs } = this.#options;
    const begun = {
      aHasEnded: this.fromClient.hasEnded,
      bHasEnded: this.fromUpstream.hasEnded,
      fromA: this.fromClient.detach(),
      fromB: this.fromUpstream.detach(),
    };
    clearTimeout(this.#silence);
    this.#rawFor = judgedBy;
    this.#conversation = undefined;
    this.#raw = relay(this.#client, this.#upstream, { halfClosedTimeoutMs, begun });
    void this.#raw.done.then(({ reason, detail }) => {
      this.#settle(reason, detail);
      this.#resolveNow();
    });
  }

  async #serve(): Promise<void> {
    try {
      const { protocol, sni } = await this.#sniff();
      if (this.#isOver) return;
      if (protocol === 'broken') this.cut('HTTP_AMBIGUOUS', 'a ClientHello of TLS that cannot be read');
      else if (protocol === 'other') this.#judgeOpaque(sni);
      else if (protocol === 'http2') this.#conversation = new Http2(this, this.#client, this.#upstream);
      else {
        const http1 = new Http1(this);
        this.#conversation = http1;
        await http1.run();
      }
    } catch (error) {
      this.cut('INTERNAL', error instanceof Error ? error.message.slice(0, 120) : undefined);
    }
  }

  #judgeOpaque(sni: string | undefined): void {
    const verdict = this.judge(undefined, sni);
    if (verdict.allowed) this.#carryRaw({ http: undefined, sni });
    else this.cut('POLICY_DENIED', verdict.detail);
  }

  /** What the client speaks; an app that speaks first, or silence, is not HTTP. What was read is put back. */
  async #sniff(): Promise<Sniffed> {
    const { fromClient, fromUpstream } = this;
    let first: Buffer = Buffer.alloc(0);
    const wait = { isOver: false };
    const giveUp = (): void => {
      wait.isOver = true;
      fromClient.release();
    };
    const timer = setTimeout(giveUp, this.#options.sniffTimeoutMs);
    fromUpstream.onUnasked = () => {
      if (fromUpstream.hasEnded || !isSettings(fromUpstream.peek())) giveUp();
    };
    let sniffed: Sniffed | undefined;
    while (sniffed === undefined) {
      const chunk = wait.isOver ? undefined : await fromClient.next();
      if (chunk !== undefined) first = first.length === 0 ? chunk : Buffer.concat([first, chunk]);
      sniffed =
        chunk === undefined || wait.isOver ? sniffedSoFar(first) : sniff(first, this.limits.headBytes);
    }
    clearTimeout(timer);
    fromUpstream.onUnasked = undefined;
    fromClient.unread(first);
    return sniffed;
  }

  #watch(end: Duplex, source: ByteSource, reason: Reason): void {
    end.on('end', () => {
      if (this.#raw === undefined && this.#silence === undefined) this.#watchSilence();
    });
    end.on('close', () => {
      if (this.#raw !== undefined) return;
      const isWhole = end.errored === null && source.hasEnded;
      // An app that has said all and left may still be read from; HTTP/2 looks after its ends by itself.
      if (!(this.#isOver || (isWhole && end === this.#upstream) || this.#conversation?.ownsEnds === true))
        this.cut(reason, end.errored?.message.slice(0, 120));
      this.#closed += 1;
      if (this.#closed === 2) this.#resolveNow();
    });
  }

  /** One side has ended: the other may stay silent for so long, and no longer. */
  #watchSilence(): void {
    const before = this.bytesSent + this.bytesReceived;
    this.#silence = setTimeout(() => {
      if (this.bytesSent + this.bytesReceived === before) this.cut('HALF_CLOSED_TIMEOUT');
      else this.#watchSilence();
    }, this.#options.halfClosedTimeoutMs);
  }

  #settle(reason: Reason, detail: string | undefined): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#reason = reason;
    this.#detail = detail;
    if (this.#raw !== undefined) return;
    this.fromClient.stop();
    this.fromUpstream.stop();
  }

  #resolveNow(): void {
    clearTimeout(this.#silence);
    const denials =
      this.#denials === 0 ? undefined : `requests denied: ${this.#denials}, last by ${this.#lastDenial}`;
    const detail = [this.#detail, denials].filter((part) => part !== undefined).join('; ');
    this.#resolve({
      bytesSent: this.bytesSent,
      bytesReceived: this.bytesReceived,
      reason: this.#reason,
      detail: detail === '' ? undefined : detail,
    });
  }
}
