/** Two replicas of culvert-ca: who acts when one dies, and a root's rotation that is interrupted at every step. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { bundleHash, rootHash } from '../../daemon/identity/bundle.ts';
import { readPem, verifyChain } from '../../daemon/identity/chain.ts';
import { systemClock } from '../../daemon/identity/clock.ts';
import { makeKeyPair } from '../../daemon/identity/csr.ts';
import { KubernetesCsr } from '../../daemon/identity/sources/kubernetes-csr.ts';
import type { KubeClient } from '../../daemon/kube/client.ts';
import { TRUST_DOMAIN } from '../identity/forge.ts';
import { must, run } from '../support/run.ts';
import { tempDir } from '../support/tmp.ts';
import { until } from '../support/wait.ts';
import { at, list, text } from './manifests.ts';
import { OWN, REQUESTS, SignerWorld, idOf } from './signer-world.ts';

const SECRET = `/api/v1/namespaces/${OWN}/secrets/culvert-ca`;
const CULVERT = join(import.meta.dirname, '../../daemon/cli/culvert.ts');

describe('two replicas of culvert-ca', () => {
  let world: SignerWorld;
  let daemonA: KubeClient;
  let replicas = 0;
  before(async () => {
    world = await SignerWorld.start();
    daemonA = await world.client(OWN, 'culvert', 'culvert-a');
    await world.replica(`ca-${++replicas}`);
    await world.leader();
    await world.replica(`ca-${++replicas}`);
  });
  after(() => world[Symbol.asyncDispose]());

  /** Ends the leader so, and starts one more in its place. @returns the next leader's name. */
  async function succeed(signal: NodeJS.Signals): Promise<string> {
    const leader = await world.leader();
    leader.process.kill(signal);
    await world.replica(`ca-${++replicas}`);
    const others = world.replicas.filter((one) => one !== leader);
    const { name } = await world.leader(others);
    return name;
  }

  async function caStatus(): Promise<unknown> {
    const flags = ['--kubeconfig', world.plane.kubeconfig, '--json'];
    const { stdout, stderr } = await run([process.execPath, CULVERT, 'ca', 'status', ...flags]);
    if (stdout === '') throw new Error(stderr);
    const said: unknown = JSON.parse(stdout);
    return said;
  }

  /** Waits until the rotation is at `step` and waits for exactly these nodes. */
  async function reaches(step: string, ...waiting: readonly string[]): Promise<unknown> {
    let last: unknown;
    return until(
      `step ${step}, waiting for ${waiting.join(', ')}`,
      async () => {
        last = await caStatus();
        const who = list(last, 'waiting').map((one) => text(one, 'node'));
        return text(last, 'step') === step && who.sort().join() === waiting.join() ? last : undefined;
      },
      { timeoutMs: 90_000, everyMs: 500, detail: () => `${JSON.stringify(last)}\n${world.logs()}` },
    );
  }

  async function published(): Promise<string> {
    const map = await world.plane.api.must(
      'GET',
      `/api/v1/namespaces/${OWN}/configmaps/culvert-trust-bundle`,
    );
    return text(map, 'data', 'ca.crt');
  }

  /** A certificate from the CA as it is now; the hash of the root that it chains to in the published bundle. */
  async function issuedBy(): Promise<string> {
    await using csr = new KubernetesCsr({
      api: daemonA,
      namespace: OWN,
      nodeName: 'node-a',
      clock: systemClock,
      onProblem: () => undefined,
    });
    const { chainPem } = await csr.issue(idOf('web'), 3_600_000, AbortSignal.timeout(90_000));
    const verdict = verifyChain(chainPem, await published(), {
      trustDomain: TRUST_DOMAIN,
      nowMs: Date.now(),
    });
    assert.ok(verdict.ok, JSON.stringify(verdict));
    return rootHash(verdict.root);
  }

  async function secret(): Promise<Record<string, unknown>> {
    const object = await world.plane.api.must('GET', SECRET);
    assert.ok(object !== null && typeof object === 'object');
    return { ...object };
  }

  /** Both nodes do as they are told at each step, until all is steady. */
  async function walked(from: string, to: string): Promise<unknown> {
    for (const [step, root] of [
      ['trust', from],
      ['reissue', to],
      ['retire', to],
    ] as const) {
      await reaches(step, 'node-a', 'node-b');
      assert.equal(await issuedBy(), root);
      const bundle = bundleHash(await published());
      for (const pod of ['culvert-a', 'culvert-b']) await world.says(pod, bundle, { [root]: 1 });
    }
    return reaches('steady');
  }

  it('a leader killed while it signs leaves nothing undone: the other one goes on', async () => {
    const names = await Promise.all(
      Array.from({ length: 40 }, async () => world.post(daemonA, await makeKeyPair())),
    );
    const isIssued = (one: unknown): boolean => at(one, 'status', 'certificate') !== undefined;
    const count = async (): Promise<number> =>
      list(await world.plane.api.must('GET', REQUESTS), 'items').filter(isIssued).length;
    await until('some to be signed', async () => (await count()) > 0, { everyMs: 5 });
    await succeed('SIGKILL');
    const answers = await Promise.all(names.map((name) => world.answer(name)));
    assert.deepEqual([...new Set(answers.map(({ type }) => type))], ['Issued']);
  });

  it('a leader that is told to stop gives the lease back', async () => {
    const before = await world.leader();
    before.process.kill('SIGTERM');
    await until('its end', () => before.process.exitCode !== null);
    assert.equal(before.process.exitCode, 0, before.log());
    const lease = await world.plane.api.must(
      'GET',
      `/apis/coordination.k8s.io/v1/namespaces/${OWN}/leases/culvert-ca`,
    );
    assert.notEqual(text(lease, 'spec', 'holderIdentity').split('_')[0], before.name);
    await world.replica(`ca-${++replicas}`);
    await world.leader(world.replicas.filter((one) => one !== before));
  });

  it('walk a rotation that was asked for, each step by another leader', async () => {
    const old = await issuedBy();
    const before = await secret();
    const first = await published();
    for (const pod of ['culvert-a', 'culvert-b']) await world.says(pod, bundleHash(first), { [old]: 1 });
    await reaches('steady');
    await must([process.execPath, CULVERT, 'ca', 'rotate', '--kubeconfig', world.plane.kubeconfig]);
    await reaches('trust', 'node-a', 'node-b');
    const both = await published();
    assert.equal(readPem(both, 8).length, 2);
    assert.equal(await issuedBy(), old, 'nobody is given a certificate that others do not trust');

    await succeed('SIGTERM');
    assert.equal(await published(), both);
    await world.says('culvert-a', bundleHash(both), { [old]: 1 });
    await reaches('trust', 'node-b');
    await world.says('culvert-b', bundleHash(both), { [old]: 1 });
    await reaches('reissue', 'node-a', 'node-b');
    const fresh = await issuedBy();
    assert.notEqual(fresh, old);

    await succeed('SIGKILL');
    await world.says('culvert-a', bundleHash(both), { [fresh]: 1 });
    await reaches('reissue', 'node-b');
    assert.equal(await published(), both);
    await world.says('culvert-b', bundleHash(both), { [fresh]: 1 });
    await reaches('retire', 'node-a', 'node-b');
    assert.deepEqual(readPem(await published(), 8).map(rootHash), [fresh]);

    await succeed('SIGTERM');
    const last = bundleHash(await published());
    for (const pod of ['culvert-a', 'culvert-b']) await world.says(pod, last, { [fresh]: 1 });
    assert.equal(text(await reaches('steady'), 'request'), 'done');
    assert.equal(await issuedBy(), fresh);

    // The Secret of before, from a backup: walked to, and nothing that was asked before is done once more.
    const metadata = {
      name: 'culvert-ca',
      namespace: OWN,
      annotations: at(before, 'metadata', 'annotations'),
    };
    await world.plane.api.must('PUT', SECRET, { body: { ...before, metadata } });
    assert.match(text(await walked(fresh, old), 'request'), /^over/);
    assert.deepEqual(at(await secret(), 'data'), at(before, 'data'));
  });

  it('walk to a CA that the user put in its place: an RSA root and an intermediate of openssl', async () => {
    const before = await published();
    const [old = ''] = readPem(before, 8).map(rootHash);
    await using dir = await tempDir('openssl');
    const { root } = await opensslCa(dir.path);
    const file = (name: string): string => `--from-file=${name}=${join(dir.path, name)}`;
    const made = ['create', 'secret', 'generic', 'culvert-ca', '-n', OWN, '--dry-run=client', '-o', 'json'];
    const theirs: unknown = JSON.parse(
      await world.plane.kubectl([...made, file('tls.crt'), file('tls.key'), file('ca.crt')]),
    );
    const { type, metadata, data } = await secret();
    await world.plane.kubectl(['delete', 'secret', 'culvert-ca', '-n', OWN]);
    await until('the report', async () => /is gone/.test(String(at(await caStatus(), 'problem'))));
    assert.equal(await issuedBy(), old, 'it signs on without its Secret');
    const annotations = at(metadata, 'annotations');
    const ours = { kind: 'Secret', apiVersion: 'v1', type, data };
    await world.plane.apply({ ...ours, metadata: { name: 'culvert-ca', namespace: OWN, annotations } });
    await until('an end to that', async () => at(await caStatus(), 'problem') === undefined);
    // As kubectl apply does: annotations that it does not know stay, that of ours too.
    await world.plane.api.must('PATCH', SECRET, {
      body: { data: at(theirs, 'data') },
      contentType: 'application/merge-patch+json',
    });
    await walked(old, root);
    await must([process.execPath, CULVERT, 'ca', 'rotate', '--kubeconfig', world.plane.kubeconfig]);
    await until('the refusal', async () => /^refused/.test(text(await caStatus(), 'request')));
    assert.equal(await issuedBy(), root);
  });
});

/** A root and an intermediate that signs, as files of a Secret. */
async function opensslCa(dir: string): Promise<{ root: string }> {
  const path = (name: string): string => join(dir, name);
  const openssl = (...words: readonly string[]): Promise<string> => must(['openssl', ...words]);
  await openssl(
    'req',
    '-x509',
    '-newkey',
    'rsa:2048',
    '-nodes',
    '-days',
    '365',
    '-subj',
    '/CN=our root',
    '-keyout',
    path('root.key'),
    '-out',
    path('ca.crt'),
  );
  await openssl(
    'req',
    '-newkey',
    'rsa:2048',
    '-nodes',
    '-subj',
    '/CN=our intermediate',
    '-keyout',
    path('tls.key'),
    '-out',
    path('i.csr'),
  );
  const extensions = `printf 'basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n' > ${path('ext')}`;
  await must(['sh', '-c', extensions]);
  await openssl(
    'x509',
    '-req',
    '-in',
    path('i.csr'),
    '-CA',
    path('ca.crt'),
    '-CAkey',
    path('root.key'),
    '-CAcreateserial',
    '-days',
    '90',
    '-extfile',
    path('ext'),
    '-out',
    path('tls.crt'),
  );
  const [root] = readPem(readFileSync(path('ca.crt'), 'utf8'), 1);
  assert.ok(root);
  return { root: rootHash(root) };
}
