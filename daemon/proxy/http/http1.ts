/**
 * HTTP/1 between a client and its app: one request at a time is read, judged and carried, then its answer; the next is
 * not looked at before that answer is complete. One client connection has one of the app, so nobody gets another's answer.
 */
import { bodyReader } from './body.ts';
import type { BodyReader } from './body-reader.ts';
import type { Conversation, Ends } from './ends.ts';
import { HeadReader } from './head.ts';
import type { Head } from './head.ts';
import { refusalAnswer } from './refusal.ts';
import type { Refused } from './refusal.ts';
import { parseRequest } from './request.ts';
import type { Request } from './request.ts';
import { Exchange } from './exchange.ts';

export class Http1 implements Conversation {
  readonly ownsEnds = false;
  readonly #ends: Ends;
  #exchange: Exchange | undefined;

  constructor(ends: Ends) {
    this.#ends = ends;
  }

  /** Serves until the connection is over or has become a tunnel. */
  async run(): Promise<void> {
    while (await this.#next());
  }

  rejudge(): void {
    if (this.#exchange === undefined) return;
    const verdict = this.#ends.judge(this.#exchange.request.http);
    if (!verdict.allowed) this.#ends.cut('POLICY_DENIED', verdict.detail);
  }

  abandon(): void {
    this.#exchange = undefined;
  }

  /** @returns whether another request may follow. */
  async #next(): Promise<boolean> {
    const ends = this.#ends;
    const head = await this.#head();
    if (head === undefined) return false;
    const request = head.ok ? parseRequest(head.lines, ends.normalization, ends.limits) : head;
    if (!request.ok) return this.#refuse(request);
    const verdict = ends.judge(request.http);
    if (!verdict.allowed) return this.#deny(request, verdict.detail);
    this.#exchange = new Exchange(ends, request);
    const goesOn = await this.#exchange.carry();
    this.#exchange = undefined;
    return goesOn;
  }

  /** The next request's head; undefined when the connection is over. */
  async #head(): Promise<Head | Refused | undefined> {
    const ends = this.#ends;
    const { fromClient, fromUpstream, limits } = ends;
    const reader = new HeadReader(limits);
    let timer: NodeJS.Timeout | undefined;
    try {
      for (;;) {
        if (!fromUpstream.isEmpty || fromUpstream.hasEnded) {
          this.#upstreamLeft();
          return undefined;
        }
        fromUpstream.onUnasked = () => this.#upstreamLeft();
        const chunk = await fromClient.next();
        if (chunk === undefined) {
          ends.finish('OK');
          return undefined;
        }
        const head = reader.push(chunk);
        if (head?.ok === true) fromClient.unread(head.rest);
        if (head !== undefined) return head;
        timer ??= setTimeout(() => this.#tooSlow(), limits.headTimeoutMs);
      }
    } finally {
      clearTimeout(timer);
      fromUpstream.onUnasked = undefined;
    }
  }

  /** The app hung up between requests, or spoke without being asked: the next answer could be taken for another's. */
  #upstreamLeft(): void {
    this.#ends.finish('OK', 'the app ended the connection between requests');
  }

  #tooSlow(): void {
    void this.#ends.toClient.write(refusalAnswer(408));
    this.#ends.finish('HTTP_AMBIGUOUS', 'the head of a request did not come in time');
  }

  #refuse({ status, why }: Refused): false {
    void this.#ends.toClient.write(refusalAnswer(status));
    this.#ends.finish('HTTP_AMBIGUOUS', why);
    return false;
  }

  async #deny(request: Request, detail: string): Promise<boolean> {
    const { framing } = request;
    const body = bodyReader(framing, this.#ends.limits);
    const isLong = framing.kind === 'length' && framing.length > this.#ends.limits.discardedBytes;
    // A client that awaits 100 may or may not send its body after a refusal: what follows could be either.
    const keepAlive = request.keepAlive && (body.done || !(isLong || request.expectsContinue));
    this.#ends.denied(detail);
    const isHead = request.http.method === 'HEAD';
    await this.#ends.toClient.write(refusalAnswer(403, { keepAlive, isHead }));
    if (keepAlive && (await this.#discard(body))) return true;
    this.#ends.finish('OK');
    return false;
  }

  /** Reads a denied request's body. @returns whether its end was found within the bounds. */
  async #discard(body: BodyReader): Promise<boolean> {
    const { fromClient, limits } = this.#ends;
    if (body.done) return true;
    let left = limits.discardedBytes;
    const timer = setTimeout(() => fromClient.release(), limits.discardTimeoutMs);
    try {
      for (;;) {
        const chunk = await fromClient.next();
        if (chunk === undefined) return false;
        const taken = body.push(chunk);
        if (!taken.ok) return false;
        left -= chunk.length - (taken.rest?.length ?? 0);
        if (left < 0) return false;
        fromClient.unread(taken.rest);
        if (taken.done) return true;
      }
    } finally {
      clearTimeout(timer);
    }
  }
}
