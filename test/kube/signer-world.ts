/** A real API server with two nodes' daemons, an application's pods and replicas of culvert-ca that are real processes. */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { KubeClient } from '../../daemon/kube/client.ts';
import { openAccess } from '../../daemon/kube/config.ts';
import { makeCsr, toPem } from '../../daemon/identity/csr.ts';
import type { KeyPair } from '../../daemon/identity/csr.ts';
import { parseSpiffeId } from '../../daemon/mesh/ids.ts';
import type { SpiffeId } from '../../daemon/mesh/ids.ts';
import { until } from '../support/wait.ts';
import { ControlPlane } from './kit/control-plane.ts';
import { namespace, serviceAccount } from './kit/fakes.ts';
import { at, list, render, text } from './manifests.ts';
import { boundToken } from './tokens.ts';
import type { Root } from './manifests.ts';

export const OWN = 'culvert-system';
export const REQUESTS = '/apis/certificates.k8s.io/v1/certificatesigningrequests';
const CULVERT = join(import.meta.dirname, '../../daemon/cli/culvert.ts');
/** What the API server makes itself here, or nobody would act on. */
const LEFT_OUT = ['Deployment', 'DaemonSet', 'PodDisruptionBudget', 'NetworkPolicy'];

export function idOf(account: string, inNamespace = 'shop'): SpiffeId {
  const id = parseSpiffeId(`spiffe://cluster.local/ns/${inNamespace}/sa/${account}`);
  if (id === undefined) throw new Error(`no identity: ${account}`);
  return id;
}

export interface Posted {
  readonly id?: SpiffeId;
  readonly der?: Uint8Array;
  readonly usages?: readonly string[];
  readonly expirationSeconds?: number;
  readonly signerName?: string;
}

/** One process of culvert-ca. */
export interface Replica {
  readonly name: string;
  readonly process: ChildProcess;
  readonly log: () => string;
  readonly healthPort: number;
}

export class SignerWorld implements AsyncDisposable {
  readonly plane: ControlPlane;
  readonly replicas: Replica[] = [];
  readonly #clients: KubeClient[] = [];

  /** A root applied, the base by default; daemons culvert-a and culvert-b, shop/web on node a, shop/db on node b. */
  static async start(root: Root = 'base'): Promise<SignerWorld> {
    const plane = await ControlPlane.start();
    const world = new SignerWorld(plane);
    try {
      await namespace(plane, 'shop');
      const objects = await render(root);
      // Where cert-manager's own objects are.
      await namespace(plane, 'cert-manager');
      await plane.apply(
        ...objects.filter(({ kind }) => !LEFT_OUT.includes(kind)).map(({ object }) => object),
      );
      await serviceAccount(plane, OWN);
      for (const account of ['web', 'db', 'late']) await serviceAccount(plane, 'shop', account);
      for (const node of ['node-a', 'node-b']) await world.#node(node);
      await world.pod('culvert-a', OWN, 'culvert', 'node-a', true);
      await world.pod('culvert-b', OWN, 'culvert', 'node-b', true);
      await world.pod('web-1', 'shop', 'web', 'node-a');
      await world.pod('db-1', 'shop', 'db', 'node-b');
      return world;
    } catch (error) {
      await world[Symbol.asyncDispose]();
      throw error;
    }
  }

  private constructor(plane: ControlPlane) {
    this.plane = plane;
  }

  async #node(name: string): Promise<void> {
    await this.plane.apply({ apiVersion: 'v1', kind: 'Node', metadata: { name } });
    await this.plane.api.must('PATCH', `/api/v1/nodes/${name}/status`, {
      body: { status: { conditions: [{ type: 'Ready', status: 'True', reason: 'Fake' }] } },
      contentType: 'application/merge-patch+json',
    });
  }

  async pod(
    name: string,
    inNamespace: string,
    account: string,
    node: string,
    isDaemon = false,
  ): Promise<void> {
    const labels = { 'app.kubernetes.io/name': 'culvert', 'app.kubernetes.io/component': 'daemon' };
    const owner = { apiVersion: 'apps/v1', kind: 'DaemonSet', name: 'culvert', uid: 'e', controller: true };
    await this.plane.apply({
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name, namespace: inNamespace, ...(isDaemon ? { labels, ownerReferences: [owner] } : {}) },
      spec: { serviceAccountName: account, nodeName: node, containers: [{ name: 'main', image: 'none' }] },
    });
  }

  /** A client with a token of an account, bound to a pod as the kubelet's are. */
  async client(inNamespace: string, account: string, pod?: string): Promise<KubeClient> {
    const token = await boundToken(this.plane, account, pod, inNamespace);
    const file = this.plane.tokenKubeconfig(`token-${randomBytes(4).toString('hex')}`, token);
    const client = new KubeClient(openAccess(file, {}), { userAgent: 'test' });
    this.#clients.push(client);
    return client;
  }

  /** Posts a request; gives its name. */
  async post(client: KubeClient, keys: KeyPair, asked: Posted = {}): Promise<string> {
    const name = `test-${randomBytes(6).toString('hex')}`;
    const pem = toPem('CERTIFICATE REQUEST', asked.der ?? makeCsr(asked.id ?? idOf('web'), keys));
    const spec = {
      request: Buffer.from(pem).toString('base64'),
      signerName: asked.signerName ?? 'culvert.dev/workload',
      usages: asked.usages ?? ['digital signature', 'client auth', 'server auth'],
      expirationSeconds: asked.expirationSeconds ?? 3_600,
    };
    const body = {
      apiVersion: 'certificates.k8s.io/v1',
      kind: 'CertificateSigningRequest',
      metadata: { name },
      spec,
    };
    await client.request({ method: 'POST', path: REQUESTS, body });
    return name;
  }

  /** The request's last condition, or `Issued`, once it has an answer. */
  async answer(name: string): Promise<{ type: string; reason: string; message: string; object: unknown }> {
    return until(
      `an answer to ${name}`,
      async () => {
        const object = await this.plane.api.must('GET', `${REQUESTS}/${name}`);
        if (at(object, 'status', 'certificate') !== undefined)
          return { type: 'Issued', reason: '', message: '', object };
        const refusal = list(object, 'status', 'conditions').find((one) => at(one, 'type') !== 'Approved');
        if (refusal === undefined) return undefined;
        return {
          type: text(refusal, 'type'),
          reason: text(refusal, 'reason'),
          message: text(refusal, 'message'),
          object,
        };
      },
      { timeoutMs: 90_000, everyMs: 200, detail: () => this.logs() },
    );
  }

  /** Starts a replica of culvert-ca with its own service account's token. */
  async replica(name: string, env: Readonly<Record<string, string>> = {}): Promise<Replica> {
    const path = `/api/v1/namespaces/${OWN}/serviceaccounts/culvert-ca/token`;
    const body = { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec: {} };
    const token = text(await this.plane.api.must('POST', path, { body }), 'status', 'token');
    const kubeconfig = this.plane.tokenKubeconfig(name, token);
    const [metricsPort, healthPort] = [await freePort(), await freePort()];
    const flags = [
      '--kubeconfig',
      kubeconfig,
      '--metrics-port',
      String(metricsPort),
      '--health-port',
      String(healthPort),
    ];
    const child = spawn(process.execPath, [CULVERT, 'ca', 'serve', '--pod-name', name, ...flags], {
      env: { PATH: process.env['PATH'], ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let said = '';
    child.on('error', (error) => (said += String(error)));
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (chunk: Buffer) => (said = (said + chunk.toString()).slice(-100_000)));
    const replica = { name, process: child, log: () => said, healthPort };
    this.replicas.push(replica);
    return replica;
  }

  /** The replica that leads by its own log, once one does. */
  leader(among: readonly Replica[] = this.replicas): Promise<Replica> {
    const leads = (one: Replica): boolean =>
      one.process.exitCode === null && one.process.signalCode === null && isLeading(one.log());
    return until('a leader', () => among.find(leads), { timeoutMs: 90_000, detail: () => this.logs() });
  }

  /** What a daemon says of its node. */
  async says(pod: string, bundle: string, issuers: Readonly<Record<string, number>>): Promise<void> {
    const value = JSON.stringify({ version: 'test', bundle, issuers });
    await this.plane.api.must('PATCH', `/api/v1/namespaces/${OWN}/pods/${pod}`, {
      body: { metadata: { annotations: { 'culvert.dev/node': value } } },
      contentType: 'application/merge-patch+json',
    });
  }

  logs(): string {
    return this.replicas.map(({ name, log }) => `--- ${name}\n${log().slice(-4_000)}`).join('\n');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { process: child } of this.replicas) child.kill('SIGKILL');
    for (const client of this.#clients) client[Symbol.dispose]();
    await this.plane[Symbol.asyncDispose]();
  }
}

function isLeading(log: string): boolean {
  return log.lastIndexOf('this replica leads"') > log.lastIndexOf('this replica leads no more');
}

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer();
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => resolve(port));
    });
  });
}
