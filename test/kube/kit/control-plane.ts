/**
 * A real control plane in a network namespace of its own: etcd and the API server, and the controllers where they are
 * asked for. Reached from this machine's loopback. Without controllers it is ready in 3 to 5 s: enough for everything
 * that is the API server's (list and watch, RBAC, admission policies, dry runs, CSRs), while nothing is garbage
 * collected, no namespace ends and no pod is scheduled.
 */
import { randomBytes } from 'node:crypto';
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ip } from '../../lab/kit/net.ts';
import { run } from '../../support/run.ts';
import type { RunOptions, RunResult } from '../../support/run.ts';
import { until } from '../../support/wait.ts';
import { ADDRESSES, API_PORT } from './addresses.ts';
import { Api } from './api.ts';
import { FEATURE_GATES, apiServerFlags, controllerManagerFlags, etcdFlags, schedulerFlags } from './flags.ts';
import { Home } from './home.ts';
import { kubetool } from './kubetool.ts';
import { multi } from './multi.ts';
import { ClusterPki } from './pki.ts';
import type { ClusterUser } from './pki.ts';
import { Part } from './part.ts';
import { KubeProcess } from './process.ts';

export interface ControlPlaneOptions {
  /** Controller manager and scheduler too. Default false. */
  readonly controllers?: boolean;
  /** On top of ClusterTrustBundle and its projection, or against them. */
  readonly featureGates?: Readonly<Record<string, boolean>>;
  /** More flags of the API server; the last of a kind counts. */
  readonly apiServerFlags?: readonly string[];
  /** `--controllers`. Default all. */
  readonly controllerList?: string;
}

export class ControlPlane implements AsyncDisposable {
  readonly home: Home;
  readonly pki: ClusterPki;
  /** `https://127.0.0.1:PORT`, as this machine reaches it. */
  readonly url: string;
  /** As nodes and pods reach it. */
  readonly clusterUrl = `https://${ADDRESSES.controlPlane}:${API_PORT}`;
  /** Path of the administrator's kubeconfig (group system:masters). */
  readonly kubeconfig: string;
  /** The administrator's requests. */
  readonly api: Api;
  readonly etcd: Part;
  readonly apiServer: Part;
  readonly controllerManager: Part;
  readonly scheduler: Part;
  readonly #holder: KubeProcess;
  readonly #multi: string;

  /** @throws Error with the last lines of the part that did not start. */
  static async start(options: ControlPlaneOptions = {}): Promise<ControlPlane> {
    const binary = await multi();
    const home = await Home.create();
    try {
      const controlPlane = await ControlPlane.#make(home, binary, options);
      await Promise.all([controlPlane.etcd.start(), controlPlane.apiServer.start()]);
      if (options.controllers === true) await controlPlane.startControllers();
      return controlPlane;
    } catch (error) {
      await home[Symbol.asyncDispose]();
      throw error;
    }
  }

  static async #make(home: Home, binary: string, options: ControlPlaneOptions): Promise<ControlPlane> {
    const place = { cgroup: home.cgroupOf('control-plane') };
    const holder = await KubeProcess.start(['sleep', 'infinity'], {
      ...place,
      netns: 'new',
      logFile: home.logFile('netns'),
    });
    await ip(holder.netns, [
      // A MAC of its own: else the bridge takes its ports' and changes it as they come.
      'link add br0 address 02:00:00:00:00:01 type bridge forward_delay 0 mcast_snooping 0',
      `addr add ${ADDRESSES.controlPlane}/24 dev br0`,
      'link set br0 up',
    ]);
    const door = await KubeProcess.start([await kubetool(), 'door', String(holder.pid), String(API_PORT)], {
      ...place,
      logFile: home.logFile('door'),
    });
    const port = Number((await door.waitForOutput(/door (\d+)/))[1]);
    return new ControlPlane(home, binary, holder, `https://127.0.0.1:${port}`, options);
  }

  private constructor(
    home: Home,
    binary: string,
    holder: KubeProcess,
    url: string,
    options: ControlPlaneOptions,
  ) {
    this.home = home;
    this.url = url;
    this.#holder = holder;
    this.#multi = binary;
    const pki = new ClusterPki(join(home.dir, 'pki'));
    this.pki = pki;
    this.api = new Api(url, pki);
    this.kubeconfig = pki.kubeconfig('admin', url, { name: 'kubernetes-admin', groups: ['system:masters'] });
    const inside = `https://127.0.0.1:${API_PORT}`;
    const config = (file: string, name: string): string => pki.kubeconfig(file, inside, { name });
    const part = (name: string, flags: readonly string[], isReady: () => Promise<boolean>): Part =>
      new Part([binary, name, ...flags], isReady, {
        cgroup: home.cgroupOf('control-plane'),
        netns: holder.netns,
        logFile: home.logFile(name),
      });
    const gates = { ...FEATURE_GATES, ...options.featureGates };
    const controllers = controllerManagerFlags(
      pki,
      config('controller-manager', 'system:kube-controller-manager'),
      options.controllerList ?? '*',
    );
    const started = (): Promise<boolean> => Promise.resolve(true);
    const apiFlags = [...apiServerFlags(pki, gates), ...(options.apiServerFlags ?? [])];
    this.etcd = part('etcd', etcdFlags(join(home.dir, 'etcd')), started);
    this.apiServer = part('kube-apiserver', apiFlags, () => this.isReady());
    this.controllerManager = part('kube-controller-manager', controllers, started);
    const schedulerConfig = config('scheduler', 'system:kube-scheduler');
    this.scheduler = part('kube-scheduler', schedulerFlags(schedulerConfig), started);
    this.#writeKubectl();
  }

  /** `/proc/PID/ns/net` of the control plane; the bridge `br0` in it joins the nodes. */
  get netns(): string {
    return this.#holder.netns;
  }

  /** Whether the API server says that it is. */
  async isReady(): Promise<boolean> {
    return (await this.api.ask('GET', '/readyz', { timeoutMs: 2_000 })).status === 200;
  }

  /** Resolves when the controllers do their work: the service account `default` is there. */
  async startControllers(): Promise<void> {
    await Promise.all([this.controllerManager.start(), this.scheduler.start()]);
    const account = '/api/v1/namespaces/default/serviceaccounts/default';
    await until('the controllers', async () => (await this.api.ask('GET', account)).status === 200, {
      timeoutMs: 60_000,
      everyMs: 100,
      detail: () => this.controllerManager.tail(),
    });
  }

  /** kubectl as the administrator, or with another kubeconfig among `words`. Never throws for how it ended. */
  tryKubectl(words: readonly string[], options: RunOptions = {}): Promise<RunResult> {
    const env = { ...process.env, KUBECONFIG: this.kubeconfig };
    return run([this.#multi, 'kubectl', ...words], { env, ...options });
  }

  /** The same; gives its output. @throws Error with its stderr when it fails. */
  async kubectl(words: readonly string[], options: RunOptions = {}): Promise<string> {
    const { code, stdout, stderr } = await this.tryKubectl(words, options);
    if (code === 0) return stdout;
    throw new Error(`kubectl ${words.join(' ')}: exit ${code ?? '?'}\n${stderr}${stdout}`);
  }

  /** A kubectl that goes on (port-forward, logs -f, a watch); what it prints is in its log file. Kill it when done. */
  startKubectl(words: readonly string[]): Promise<KubeProcess> {
    const logFile = this.home.logFile(`kubectl-${words[0] ?? ''}-${randomBytes(4).toString('hex')}`);
    const env = { ...process.env, KUBECONFIG: this.kubeconfig };
    const argv = [this.#multi, 'kubectl', ...words];
    return KubeProcess.start(argv, { cgroup: this.home.cgroupOf('tools'), logFile, env });
  }

  /** Applies objects. @throws Error with kubectl's words. */
  async apply(...objects: readonly unknown[]): Promise<void> {
    const input = JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects });
    await this.kubectl(['apply', '-f', '-'], { input });
  }

  /** Path of a kubeconfig for a user with a client certificate. */
  kubeconfigOf(user: ClusterUser): string {
    return this.pki.kubeconfig(user.name.replaceAll(/[^a-z0-9-]/g, '-'), this.url, user);
  }

  /** Path of a kubeconfig with a bearer token. */
  tokenKubeconfig(file: string, token: string): string {
    return this.pki.tokenKubeconfig(file, this.url, token);
  }

  /** A program in the control plane's network namespace, in a cgroup of the cluster. */
  spawn(argv: readonly string[], name: string): Promise<KubeProcess> {
    const cgroup = this.home.cgroupOf('tools');
    return KubeProcess.start(argv, { cgroup, netns: this.netns, logFile: this.home.logFile(name) });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.api[Symbol.dispose]();
    await this.home[Symbol.asyncDispose]();
  }

  /** For people: a kubectl of this cluster's version that knows where it is. */
  #writeKubectl(): void {
    const path = join(this.home.dir, 'kubectl');
    const script = `#!/bin/sh\nKUBECONFIG=\${KUBECONFIG:-${this.kubeconfig}} exec ${this.#multi} kubectl "$@"\n`;
    writeFileSync(path, script);
    chmodSync(path, 0o755);
  }
}
