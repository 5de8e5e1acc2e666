/**
 * Programs in a running pod of a real cluster, without the API server: load that goes on while it is killed. They are
 * in the container's cgroup and network namespace, so they are the pod's as the mesh sees it, and end with it.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Idle, Loop, httpReply, httpRequest, sendArguments } from '../../lab/kit/apps.ts';
import type { HttpReply, LoopOptions, SendOptions, SendResult } from '../../lab/kit/apps.ts';
import { Sending, Server, serveArguments } from '../../lab/kit/apps.ts';
import type { ServeOptions, ServerKind } from '../../lab/kit/apps.ts';
import { cgroup2Mount } from '../../lab/kit/cgroups.ts';
import { LabProcess } from '../../lab/kit/process.ts';
import type { Place } from '../../lab/kit/process.ts';
import { tools } from '../../lab/kit/tools.ts';
import type { KubeNode } from './node.ts';

export class LivePod {
  readonly name: string;
  readonly uid: string;
  readonly ip: string;
  readonly node: KubeNode;

  constructor(node: KubeNode, pod: { readonly name: string; readonly uid: string; readonly ip: string }) {
    this.name = pod.name;
    this.uid = pod.uid;
    this.ip = pod.ip;
    this.node = node;
  }

  /** Where a process of its container lives, as this machine sees it. @throws Error when it has none. */
  place(): Place {
    const pid = this.node.podInitPids(this.uid).at(-1);
    if (pid === undefined) throw new Error(`${this.name} (${this.uid}) has no process on ${this.node.name}`);
    const path = /^0::(.*)$/m.exec(readFileSync(`/proc/${pid}/cgroup`, 'utf8'))?.[1] ?? '';
    return { cgroup: join(cgroup2Mount(), path), netns: `/proc/${pid}/ns/net` };
  }

  /** Starts a server and waits until it listens. */
  async serve(kind: ServerKind, port: number, options: ServeOptions = {}): Promise<Server> {
    return Server.listening(
      await this.#spawn(serveArguments(kind, port, { name: this.name, ...options })),
      port,
    );
  }

  /** One connection to its end: how it went. Never throws for how it went. */
  async send(host: string, port: number, options: SendOptions = {}): Promise<SendResult> {
    await using sending = await this.startSend(host, port, options);
    return await sending.result((options.timeoutMs ?? 30_000) + 15_000);
  }

  /** One connection, looked at on the way. */
  async startSend(host: string, port: number, options: SendOptions = {}): Promise<Sending> {
    return new Sending(await this.#spawn(sendArguments(host, port, options)));
  }

  /** One HTTP request on a connection of its own, with `body` echoed by an `http` server. */
  async request(host: string, port: number, body?: Uint8Array, timeoutMs = 30_000): Promise<HttpReply> {
    const options = { first: httpRequest('/', body), halfClose: false, timeoutMs };
    return httpReply(await this.send(host, port, options));
  }

  /** A new connection per request, every `everyMs`, until stopped. */
  async loop(host: string, port: number, options: LoopOptions): Promise<Loop> {
    const first = Buffer.from(options.first ?? httpRequest('/')).toString('hex');
    const words = ['loop', host, String(port), String(options.everyMs), '--hex', first];
    if (options.timeoutMs !== undefined) words.push('--timeout-ms', String(options.timeoutMs));
    return new Loop(await this.#spawn(words));
  }

  /** Opens `count` connections and keeps them. */
  async idle(host: string, port: number, count: number, window = 64): Promise<Idle> {
    return new Idle(
      await this.#spawn(['idle', host, String(port), String(count), '--window', String(window)]),
    );
  }

  async #spawn(words: readonly string[]): Promise<LabProcess> {
    const { labapp } = await tools();
    return LabProcess.start([labapp, ...words], this.place());
  }
}
