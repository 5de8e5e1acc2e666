/** One request that was allowed, and its answer. */
import { bodyReader } from './body.ts';
import type { BodyReader } from './body-reader.ts';
import type { Ends } from './ends.ts';
import { HeadReader } from './head.ts';
import type { Head } from './head.ts';
import { refusalAnswer, refused } from './refusal.ts';
import type { Refused } from './refusal.ts';
import type { Request } from './request.ts';
import { parseResponse } from './response.ts';
import type { Response } from './response.ts';

export class Exchange {
  readonly request: Request;
  readonly #ends: Ends;
  readonly #body: BodyReader;
  /** No more of the body goes to the app. */
  #stopped = false;
  #isSpoiled = false;
  #isOver = false;
  #hasContinued = false;
  /** Part of an answer has gone to the client. */
  #hasAnswered = false;

  constructor(ends: Ends, request: Request) {
    this.#ends = ends;
    this.request = request;
    this.#body = bodyReader(request.framing, ends.limits);
  }

  /** Carries both. @returns whether another request may follow. */
  async carry(): Promise<boolean> {
    const full = this.#ends.toUpstream.write(this.request.head);
    if (this.#body.done) this.#passEnd();
    else void this.#sendBody(full);
    const answer = await this.#finalAnswer();
    const goesOn = answer !== undefined && (await this.#carryAnswer(answer));
    this.#isOver = true;
    return goesOn;
  }

  async #sendBody(full: Promise<void> | undefined): Promise<void> {
    await full;
    const { fromClient, toUpstream } = this.#ends;
    while (!this.#body.done) {
      const chunk = await fromClient.next();
      if (this.#stopped) {
        fromClient.unread(chunk);
        return;
      }
      if (chunk === undefined) break;
      const taken = this.#body.push(chunk);
      if (!taken.ok) {
        this.#spoil(taken);
        return;
      }
      fromClient.unread(taken.rest);
      for (const part of taken.out) await toUpstream.write(part);
    }
    // A client that stopped in the middle of its body: the app sees the same.
    if (!this.#body.done && fromClient.hasEnded) toUpstream.stream.end();
    else this.#passEnd();
  }

  /** A client that has said all may be waited for no longer: the app hears of it at once. */
  #passEnd(): void {
    const { fromClient, toUpstream } = this.#ends;
    if (this.#isOver) return;
    if (fromClient.isSpent) toUpstream.stream.end();
    else fromClient.onUnasked = () => this.#passEnd();
  }

  /** The body turned out to be malformed: the app must not take what it got for a whole request. */
  #spoil({ why }: Refused): void {
    this.#isSpoiled = true;
    this.#abandon(400, 'HTTP_AMBIGUOUS', why);
  }

  #abandon(status: number, reason: 'HTTP_AMBIGUOUS' | 'HTTP_ANSWER_AMBIGUOUS', why: string): void {
    if (this.#hasAnswered) {
      this.#ends.cut(reason, why);
      return;
    }
    const isHead = this.request.http.method === 'HEAD';
    void this.#ends.toClient.write(refusalAnswer(status, { isHead }));
    this.#ends.finish(reason, why);
  }

  /** Passes interim answers on. @returns the head of the final one; undefined when the connection went another way. */
  async #finalAnswer(): Promise<Response | undefined> {
    const { limits, toClient } = this.#ends;
    for (let interim = 0; ; interim++) {
      const head = await this.#answerHead();
      if (head === undefined) {
        this.#unanswered();
        return undefined;
      }
      const answer = head.ok ? parseResponse(head.lines, this.request, limits) : refused(head.why, 502);
      const problem = answer.ok ? this.#problemOf(answer, interim) : answer.why;
      if (!answer.ok || problem !== undefined) {
        this.#abandon(502, 'HTTP_ANSWER_AMBIGUOUS', problem ?? '');
        return undefined;
      }
      if (answer.status >= 200) return answer;
      this.#hasContinued ||= answer.status === 100;
      if (!this.request.isOld) await toClient.write(answer.write(false));
      if (answer.status !== 101) continue;
      this.#ends.tunnel(this.request.http);
      return undefined;
    }
  }

  #problemOf({ status }: Response, interim: number): string | undefined {
    if (interim > this.#ends.limits.interimAnswers) return 'the app sends interim answers without end';
    return status === 101 && !this.#body.done ? 'the app switches before the request is complete' : undefined;
  }

  #unanswered(): void {
    if (!this.#isSpoiled)
      this.#ends.finish('UPSTREAM_RESET', 'the app ended the connection without an answer');
  }

  async #answerHead(): Promise<Head | Refused | undefined> {
    const { fromUpstream, limits } = this.#ends;
    const reader = new HeadReader(limits);
    for (;;) {
      const chunk = await fromUpstream.next();
      if (chunk === undefined) return undefined;
      const head = reader.push(chunk);
      if (head?.ok === true) fromUpstream.unread(head.rest);
      if (head !== undefined) return head;
    }
  }

  async #carryAnswer(answer: Response): Promise<boolean> {
    const { fromClient, toClient, limits } = this.#ends;
    const isEarly = !this.#body.done;
    // An app that answers without 100 may never read the body: it could take it for the next request.
    if (isEarly && this.request.expectsContinue && !this.#hasContinued) {
      this.#stopped = true;
      fromClient.release();
    }
    const goesOn = this.request.keepAlive && answer.keepAlive && !isEarly;
    this.#hasAnswered = true;
    await toClient.write(answer.write(!goesOn));
    const isWhole = await this.#carryBody(bodyReader(answer.framing, limits), answer);
    if (isWhole && goesOn) return true;
    if (isWhole) this.#ends.finish('OK');
    return false;
  }

  /** @returns whether the answer came whole. */
  async #carryBody(body: BodyReader, { framing }: Response): Promise<boolean> {
    const { fromUpstream, toClient } = this.#ends;
    while (!body.done) {
      const chunk = await fromUpstream.next();
      if (chunk === undefined) {
        if (framing.kind === 'until-close' && fromUpstream.hasEnded) return true;
        this.#ends.cut('UPSTREAM_RESET', 'the app broke off its answer');
        return false;
      }
      const taken = body.push(chunk);
      if (!taken.ok) {
        this.#abandon(502, 'HTTP_ANSWER_AMBIGUOUS', taken.why);
        return false;
      }
      fromUpstream.unread(taken.rest);
      for (const part of taken.out) await toClient.write(part);
    }
    return true;
  }
}
