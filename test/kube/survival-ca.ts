/** What tests of survival ask of the cluster's CA, and do to it. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { rootHash } from '../../daemon/identity/bundle.ts';
import { readPem } from '../../daemon/identity/chain.ts';
import { KubeClient } from '../../daemon/kube/client.ts';
import { openAccess } from '../../daemon/kube/config.ts';
import type { SpiffeId } from '../../daemon/mesh/ids.ts';
import { must } from '../support/run.ts';
import { until } from '../support/wait.ts';
import { SYSTEM } from './kit/mesh.ts';
import type { ListedPod, MeshCluster } from './kit/mesh.ts';
import { at, list, text } from './manifests.ts';
import { REQUESTS, signingRequest } from './token-request.ts';
import { boundToken } from './tokens.ts';

const LEASE = `/apis/coordination.k8s.io/v1/namespaces/${SYSTEM}/leases/culvert-ca`;

const Status = z.looseObject({
  step: z.string(),
  problem: z.string().optional(),
  request: z.string().optional(),
});
export type CaStatus = z.infer<typeof Status>;

const NodeSaid = z.looseObject({
  bundle: z.string().nullish(),
  issuers: z.record(z.string(), z.number()).nullish(),
});

export class ClusterCa {
  readonly #mesh: MeshCluster;

  constructor(mesh: MeshCluster) {
    this.#mesh = mesh;
  }

  /** Chains of those requests that are signed, by name. */
  async signed(names: readonly string[]): Promise<Map<string, string>> {
    const found = await this.#mesh.controlPlane.api.must('GET', REQUESTS);
    const chains = list(found, 'items').flatMap((one): [string, string][] => {
      const certificate = at(one, 'status', 'certificate');
      const name = text(one, 'metadata', 'name');
      if (typeof certificate !== 'string' || !names.includes(name)) return [];
      return [[name, Buffer.from(certificate, 'base64').toString()]];
    });
    return new Map(chains);
  }

  /** @throws AssertionError unless one root is published, which is not `old`, and every daemon's certificates are of it. */
  async usesOnlyAnother(old: string): Promise<void> {
    const roots = readPem(await this.bundle(), 8).map(rootHash);
    assert.equal(roots.length, 1);
    assert.notEqual(roots[0], old);
    for (const counts of await this.issuers()) assert.deepEqual(Object.keys(counts), roots);
  }

  /** The pod whose replica of the CA leads, once one does that is not `other`. */
  async leader(other = ''): Promise<ListedPod> {
    let holder = '';
    return until(
      'a leader of culvert-ca',
      async () => {
        const { body } = await this.#mesh.controlPlane.api.ask('GET', LEASE);
        const found = at(body, 'spec', 'holderIdentity');
        holder = typeof found === 'string' ? found : '';
        if (holder === '' || holder === other) return undefined;
        const pods = await this.#mesh.pods(SYSTEM);
        return pods.find(({ name }) => holder.startsWith(`${name}_`));
      },
      { timeoutMs: 90_000, everyMs: 250, detail: () => `the lease is ${holder}'s` },
    );
  }

  /** Ends the leader of the CA as a crash would; returns who it was, as the lease names it. */
  async killLeader(): Promise<string> {
    const leader = await this.leader();
    const lease = await this.#mesh.controlPlane.api.must('GET', LEASE);
    for (const pid of this.#processes(leader, 'serve')) process.kill(pid, 'SIGKILL');
    return text(lease, 'spec', 'holderIdentity');
  }

  /** Resolves when both replicas of the CA are Ready, and one leads. */
  async ready(): Promise<void> {
    const words = ['rollout', 'status', '-n', SYSTEM, 'deployment/culvert-ca', '--timeout=120s'];
    await this.#mesh.controlPlane.kubectl(words, { timeoutMs: 150_000 });
    await this.leader();
  }

  async status(): Promise<CaStatus> {
    const path = `/api/v1/namespaces/${SYSTEM}/configmaps/culvert-ca-rotation`;
    const map = await this.#mesh.controlPlane.api.must('GET', path);
    return Status.parse(JSON.parse(text(map, 'data', 'status')));
  }

  /** Waits until the rotation is at `step`. */
  async reaches(step: string, isMore: (status: CaStatus) => boolean = () => true): Promise<CaStatus> {
    let last: CaStatus | undefined;
    return until(
      `the rotation to be at ${step}`,
      async () => {
        last = await this.status();
        return last.step === step && isMore(last) ? last : undefined;
      },
      { timeoutMs: 120_000, everyMs: 250, detail: () => JSON.stringify(last) },
    );
  }

  /** The roots that are published, PEM. */
  async bundle(): Promise<string> {
    const path = `/api/v1/namespaces/${SYSTEM}/configmaps/culvert-trust-bundle`;
    return text(await this.#mesh.controlPlane.api.must('GET', path), 'data', 'ca.crt');
  }

  /** What the daemons that stay say of the roots of their certificates. */
  async issuers(): Promise<Record<string, number>[]> {
    const path = `/api/v1/namespaces/${SYSTEM}/pods`;
    const pods = list(await this.#mesh.controlPlane.api.must('GET', path), 'items');
    const daemons = pods.filter(
      (one) => at(one, 'metadata', 'labels', 'app.kubernetes.io/component') === 'daemon',
    );
    return daemons.map((one) => {
      const said = at(one, 'metadata', 'annotations', 'culvert.dev/node');
      return NodeSaid.parse(JSON.parse(typeof said === 'string' ? said : '{}')).issuers ?? {};
    });
  }

  /** A client with a token of that daemon, bound to its pod as the kubelet's are. */
  async daemonClient(daemon: ListedPod): Promise<KubeClient> {
    const { controlPlane } = this.#mesh;
    const token = await boundToken(controlPlane, 'culvert', daemon.name);
    const file = controlPlane.tokenKubeconfig(`token-${randomBytes(4).toString('hex')}`, token);
    return new KubeClient(openAccess(file, {}), { userAgent: 'test' });
  }

  /** Words of the CA's replicas, those of containers before the present ones too. */
  async logs(): Promise<string> {
    const replicas = await this.#mesh.pods(SYSTEM, 'app.kubernetes.io/component=ca');
    const texts = await Promise.all(
      replicas.flatMap(({ name }) =>
        [[], ['--previous']].map((more) =>
          this.#mesh.controlPlane.tryKubectl(['logs', '-n', SYSTEM, name, ...more]),
        ),
      ),
    );
    return texts.map(({ stdout }) => stdout).join('\n');
  }

  #processes(of: ListedPod, word: string): number[] {
    const node = this.#mesh.cluster.nodes.find(({ name }) => name === of.node);
    const pids = node?.podPids(of.uid) ?? [];
    const found = pids.filter((pid) =>
      readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0').includes(word),
    );
    if (found.length === 0) throw new Error(`${of.name} has no process ${word}`);
    return found;
  }
}

/** Posts a request for `id` with a key of its own; gives its name. */
export async function postRequest(client: KubeClient, id: SpiffeId): Promise<string> {
  const name = `survival-${randomBytes(6).toString('hex')}`;
  const body = await signingRequest(name, id);
  await client.request({ method: 'POST', path: REQUESTS, body });
  return name;
}

/** A root of openssl that signs by itself, as the files of a Secret. */
export async function opensslCa(dir: string): Promise<void> {
  const path = (name: string): string => join(dir, name);
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  const extensions = ['basicConstraints=critical,CA:TRUE', 'keyUsage=critical,keyCertSign,cRLSign'];
  const words = ['req', '-x509', ...curve, '-days', '365', '-subj', '/CN=our root'];
  const files = ['-keyout', path('tls.key'), '-out', path('tls.crt')];
  await must(['openssl', ...words, ...extensions.flatMap((one) => ['-addext', one]), ...files]);
  await must(['cp', path('tls.crt'), path('ca.crt')]);
}
