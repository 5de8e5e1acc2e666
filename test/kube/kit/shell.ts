/** What a person does with the pods of a namespace, by kubectl. */
import { Result, httpReply, httpRequest, sendArguments } from '../../lab/kit/apps.ts';
import type { HttpReply } from '../../lab/kit/apps.ts';
import type { RunResult } from '../../support/run.ts';
import type { ControlPlane } from './control-plane.ts';

export class Shell {
  readonly #controlPlane: ControlPlane;
  readonly #namespace: string;

  constructor(controlPlane: ControlPlane, namespace: string) {
    this.#controlPlane = controlPlane;
    this.#namespace = namespace;
  }

  /** @throws Error with what the pods say of themselves when they are not Ready in time. */
  async waitReady(...pods: readonly string[]): Promise<void> {
    const names = pods.map((name) => `pod/${name}`);
    const words = ['wait', '-n', this.#namespace, '--for=condition=Ready', '--timeout=60s', ...names];
    const { code, stderr } = await this.#controlPlane.tryKubectl(words, { timeoutMs: 90_000 });
    if (code === 0) return;
    const events = await this.#kubectl(['get', 'events', '--sort-by=.lastTimestamp']);
    throw new Error(`${names.join(', ')} not Ready: ${stderr}\n${events}`);
  }

  /** A pod's address. */
  ip(pod: string): Promise<string> {
    return this.#kubectl(['get', 'pod', pod, '-o', 'jsonpath={.status.podIP}']);
  }

  /** A pod's UID: the name of its cgroup. */
  uid(pod: string): Promise<string> {
    return this.#kubectl(['get', 'pod', pod, '-o', 'jsonpath={.metadata.uid}']);
  }

  /** A Service's address. */
  serviceIp(name: string): Promise<string> {
    return this.#kubectl(['get', 'service', name, '-o', 'jsonpath={.spec.clusterIP}']);
  }

  /** Runs a program in a pod's container `app`. Never throws for how it ended. */
  exec(pod: string, argv: readonly string[], input = ''): Promise<RunResult> {
    const words = ['exec', '-i', '-n', this.#namespace, pod, '-c', 'app', '--', ...argv];
    return this.#controlPlane.tryKubectl(words, { input });
  }

  /** One HTTP request from a pod, on a connection of its own; status 0 when there was no answer. */
  async request(pod: string, host: string, port: number, body?: Uint8Array): Promise<HttpReply> {
    const words = sendArguments(host, port, { first: httpRequest('/', body), halfClose: false });
    const { stdout, stderr } = await this.exec(pod, ['/labapp', ...words]);
    const line = stdout.split('\n').find((one) => one.startsWith('{"event":"result"'));
    if (line === undefined) throw new Error(`kubectl exec ${pod}: ${stderr}`);
    return httpReply(Result.parse(JSON.parse(line)));
  }

  async #kubectl(words: readonly string[]): Promise<string> {
    return this.#controlPlane.kubectl(['-n', this.#namespace, ...words]);
  }
}
