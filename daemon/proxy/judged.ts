/**
 * One connection that came to a pod of ours, as policies see it: asked when it comes, once more when the app has been
 * dialled, again whenever what decided may have changed, and for each request where requests are looked at.
 */
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { admit, admitContent } from '../mesh/admit.ts';
import type { AdmitRequest, AdmitVerdict } from '../mesh/admit.ts';
import type { Ip, PodUid, Port, SpiffeId } from '../mesh/ids.ts';
import type { HttpRequest } from '../mesh/policy/model.ts';
import { refText } from '../mesh/policy/ref.ts';
import type { Reason } from '../errors.ts';
import type { LocalPod } from '../mesh/wiring.ts';
import type { Connection } from './connections.ts';
import { relayHttp } from './http/index.ts';
import type { HttpRelay } from './http/index.ts';
import { isDecidable } from './plane.ts';
import type { DataPlane } from './plane.ts';
import { relay } from './relay.ts';
import type { Relay, RelayResult } from './seams.ts';

/** What is asked for, by whom. */
export interface Asked {
  readonly uid: PodUid;
  readonly target: { readonly ip: Ip; readonly port: Port };
  readonly sourceIp: Ip;
  /** Proven by a handshake; undefined: it came in the clear. */
  readonly peer: SpiffeId | undefined;
}

/** The answer now; no pod: it is gone. */
export type Judged =
  | { readonly pod: LocalPod; readonly verdict: AdmitVerdict }
  | { readonly pod: undefined; readonly verdict: undefined };

export class JudgedConnection {
  readonly #plane: DataPlane;
  readonly #connection: Connection;
  readonly #asked: Asked;
  /** Its bytes are looked into; undefined: they are carried unread, or not yet. */
  #http: HttpRelay | undefined;
  #allowed = 0;
  #denied = 0;

  constructor(plane: DataPlane, connection: Connection, asked: Asked) {
    this.#plane = plane;
    this.#connection = connection;
    this.#asked = asked;
  }

  /** Whether it may go to the app, by the state as it is. */
  judge(): Judged {
    const pod = this.#plane.pods.get(this.#asked.uid);
    if (pod === undefined) return { pod, verdict: undefined };
    return { pod, verdict: isDecidable(this.#plane, pod) ? this.#admit(pod) : notYet(pod) };
  }

  /** The answer that counts for the record; from now on the connection is judged again when something changes. */
  decided(verdict: AdmitVerdict): void {
    this.#note(verdict);
    if (verdict.kind === 'allow') this.#connection.judgeAgain = () => this.#judgeAgain();
  }

  /**
   * The app has answered: carries the bytes between it and the client. @returns the refusal, when the state has changed
   * since `decided` and does not allow it now; then nothing has been taken.
   */
  carry(app: Socket, client: () => Duplex): Pick<AdmitVerdict, 'reason' | 'rule'> | undefined {
    const { verdict } = this.judge();
    if (verdict === undefined) return { reason: 'POD_GONE', rule: 'the pod is gone' };
    if (verdict.kind !== 'allow') {
      this.#note(verdict);
      return verdict;
    }
    const connection = this.#connection;
    const carried = verdict.needsLook === true ? this.#relayHttp(client(), app) : this.#relay(client(), app);
    connection.counters = carried;
    connection.cut = (why, detail) => carried.cut(why, detail);
    void carried.done.then((end) => connection.close(this.#endOf(end, verdict.reason), end.detail));
    return undefined;
  }

  #admit(pod: LocalPod): AdmitVerdict {
    return admit(this.#plane.state, this.#request(pod));
  }

  #request(pod: LocalPod): AdmitRequest {
    const { target, sourceIp, peer } = this.#asked;
    return {
      pod,
      podState: pod.state,
      ownPorts: pod.ownPorts,
      targetIp: target.ip,
      targetPort: target.port,
      sourceIp,
      peer,
      viaHbone: peer !== undefined,
    };
  }

  #relay(client: Duplex, app: Socket): Relay {
    return relay(client, app, { halfClosedTimeoutMs: this.#plane.config.halfClosedTimeout });
  }

  #relayHttp(client: Duplex, app: Socket): Relay {
    const { halfClosedTimeout, sniffTimeout, pathNormalization } = this.#plane.config;
    this.#http = relayHttp(client, app, {
      halfClosedTimeoutMs: halfClosedTimeout,
      sniffTimeoutMs: sniffTimeout,
      normalization: pathNormalization,
      judge: (http: HttpRequest | undefined, sni?: string) => this.#judgeContent(http, sni),
    });
    return this.#http;
  }

  #judgeContent(http: HttpRequest | undefined, sni?: string): { allowed: boolean; detail: string } {
    const pod = this.#plane.pods.get(this.#asked.uid);
    if (pod === undefined) return { allowed: false, detail: 'the pod is gone' };
    const verdict = admitContent(this.#plane.state, this.#request(pod), { http, sni });
    this.#note(verdict);
    const allowed = verdict.kind === 'allow';
    if (allowed) this.#allowed += 1;
    else this.#denied += 1;
    return { allowed, detail: verdict.rule };
  }

  /** What it still waits for is not asked: a pod that is gone, or is not known any more, ends its connections itself. */
  #judgeAgain(): void {
    const { verdict } = this.judge();
    if (verdict === undefined || verdict.kind === 'hold') return;
    if (verdict.kind === 'refuse') this.#cut(verdict);
    else if (this.#http !== undefined) this.#http.rejudge();
    else if (verdict.needsLook === true) this.#judgeUnread();
  }

  /** It is too late to look into what is carried already: it counts as bytes that are not HTTP. */
  #judgeUnread(): void {
    const pod = this.#plane.pods.get(this.#asked.uid);
    if (pod === undefined) return;
    const content = { http: undefined, sni: undefined };
    const verdict = admitContent(this.#plane.state, this.#request(pod), content);
    if (verdict.kind === 'refuse') this.#cut(verdict);
  }

  #cut(verdict: AdmitVerdict): void {
    this.#note(verdict);
    this.#connection.judgeAgain = undefined;
    this.#connection.cut(verdict.reason, `${verdict.rule} (while the connection was open)`);
  }

  #note(verdict: AdmitVerdict): void {
    const { by, dryRun } = verdict;
    const { facts } = this.#connection;
    facts.policy = by && refText(by);
    if (dryRun !== undefined) facts.dryRun = `${dryRun.verdict} by ${dryRun.text}`;
    if (by !== undefined || dryRun !== undefined || verdict.kind !== 'allow')
      this.#plane.decisions.note(verdict);
  }

  /** A connection of which nothing was let through was refused, though it ended well on the wire. */
  #endOf({ reason }: RelayResult, whenWell: Reason): Reason {
    if (reason !== 'OK') return reason;
    return this.#denied > 0 && this.#allowed === 0 ? 'POLICY_DENIED' : whenWell;
  }
}

function notYet(pod: LocalPod): AdmitVerdict {
  return { kind: 'hold', reason: 'POD_NOT_READY', rule: `state ${pod.state}` };
}
