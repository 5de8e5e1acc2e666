/**
 * The mesh's end on a real Kubernetes of two nodes, mode STRICT, traffic throughout: a daemon that is dead, and each way
 * of uninstalling. The tests go on from one another: a broken DaemonSet is cleaned up after, mended, uninstalled, applied
 * again, deleted, applied again, its namespace deleted.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readdirSync, statSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import type { TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import type { Loop } from '../lab/kit/apps.ts';
import { IS_LONG } from '../lab/shop.ts';
import { must } from '../support/run.ts';
import { until } from '../support/wait.ts';
import { APPS_IMAGE } from './kit/images.ts';
import type { LivePod } from './kit/live-pod.ts';
import { APP_PORT, MeshCluster, POD_TRAFFIC, SYSTEM } from './kit/mesh.ts';
import type { KubeNode } from './kit/node.ts';
import { PROBED, livenessProbes, livesOf, probedPods } from './mesh-objects.ts';

const SETTINGS = {
  CULVERT_DEFAULT_MODE: 'strict',
  CULVERT_DRAIN_SECONDS: '5s',
  CULVERT_LEAVE_WAIT: '2s',
  CULVERT_LEAVE_GRACE: '2s',
};
const DEAD_MS = IS_LONG ? 5 * 60_000 : 60_000;
const DEMO = ['client', 'server', ...PROBED];
const LIMITS = { timeout: 600_000 };
/** README, 'Uninstalling': how a person removes what a node has left, with nothing but its container runtime. */
const CLEANUP = `
  ctr -n k8s.io images mount "$0" /mnt >/dev/null && mount --rbind --make-rslave /sys /mnt/sys && mount --bind /proc /mnt/proc &&
  chroot /mnt /usr/local/bin/culvert cleanup --node "$1"
  code=$?; umount -R /mnt/sys; umount /mnt/proc; ctr -n k8s.io images unmount --rm /mnt >/dev/null; exit $code`;

describe('the end of the mesh on a Kubernetes of two nodes', () => {
  let mesh: MeshCluster;
  let client: LivePod;
  let server: LivePod;
  let webIp = '';

  before(async () => {
    mesh = await MeshCluster.start({ settings: SETTINGS });
    await mesh.controlPlane.apply(...probedPods(mesh.image.reference));
    await mesh.shop.waitReady(...DEMO);
    await mesh.waitState('enrolled', DEMO);
    client = await mesh.inPod('client');
    server = await mesh.inPod('server');
    webIp = await mesh.shop.serviceIp('web');
    await client.serve('http', APP_PORT, { quiet: true });
  }, LIMITS);
  after(() => mesh[Symbol.asyncDispose]());

  const startLoops = (): Promise<Loop[]> =>
    Promise.all([client.loop(webIp, 80, { everyMs: 50 }), server.loop(client.ip, APP_PORT, { everyMs: 50 })]);

  /** Whether a request is answered, and whether the bridge shows its bytes. */
  async function ask(): Promise<{ status: number; isClear: boolean }> {
    const marker = randomBytes(64);
    await using wire = await mesh.cluster.capture([mesh.cluster.bridge], POD_TRAFFIC);
    const { status } = await client.request(webIp, 80, marker, 15_000);
    return { status, isClear: (await wire.seenAt(marker)).length > 0 };
  }

  it(
    `a daemon that exits at once for ${DEAD_MS / 1_000} s: traffic is refused, pins stay, probes of every kind pass, no pod is restarted`,
    LIMITS,
    async () => {
      assert.deepEqual(await ask(), { status: 200, isClear: false });
      const lives = livesOf(await mesh.pods(), DEMO);
      await mesh.kubectl('set', 'image', '-n', SYSTEM, 'daemonset/culvert', `culvert=${APPS_IMAGE}`);
      await killDaemons();
      const probes = await livenessProbes(mesh);
      const endMs = performance.now() + DEAD_MS;
      let refused = 0;
      while (performance.now() < endMs) {
        for (const node of mesh.cluster.nodes)
          assert.ok(
            (await culvertPins(node)).some((pin) => pin.endsWith('/connect4')),
            `${node.name} is open`,
          );
        assert.deepEqual(await ask(), { status: 0, isClear: false });
        refused++;
        await sleep(2_000);
      }
      assert.ok(refused > 2);
      assert.deepEqual(
        (await mesh.daemons()).filter((one) => one.isReady),
        [],
      );
      const now = await livenessProbes(mesh);
      for (const name of PROBED) {
        const [then, at] = [probes.get(name), now.get(name)];
        assert.equal(at?.failed ?? 0, then?.failed ?? 0, `probes of ${name} failed`);
        assert.ok(
          (at?.successful ?? 0) >= (then?.successful ?? 0) + DEAD_MS / 10_000,
          `${name} was not probed`,
        );
      }
      assert.deepEqual(livesOf(await mesh.pods(), DEMO), lives);
    },
  );

  /** Deletes the healthy ones, which only wait for ones that never get Ready; resolves when all that is left is dead. */
  async function killDaemons(): Promise<void> {
    const healthy = (await mesh.daemons()).filter((one) => one.isReady);
    const names = healthy.map(({ name }) => name);
    await mesh.kubectl('delete', 'pod', '-n', SYSTEM, '--grace-period=0', '--force', ...names);
    await until(
      'the daemons to be dead',
      () => healthy.every(({ node, uid }) => nodeNamed(node).podPids(uid).length === 0),
      { timeoutMs: 60_000, everyMs: 100 },
    );
    await until(
      'their successors to have died',
      async () => {
        const left = await mesh.daemons();
        return left.length >= 2 && left.every((one) => !one.isReady && one.restarts > 0);
      },
      { timeoutMs: 60_000, everyMs: 300 },
    );
  }

  function nodeNamed(name: string): KubeNode {
    const node = mesh.cluster.nodes.find((one) => one.name === name);
    if (node === undefined) throw new Error(`there is no node ${name}`);
    return node;
  }

  it(
    'culvert cleanup --node, while the API server is away: the pods are open again, and nothing is left',
    LIMITS,
    async () => {
      await mesh.controlPlane.apiServer.kill();
      try {
        assert.deepEqual(await ask(), { status: 0, isClear: false });
        for (const node of mesh.cluster.nodes) {
          const mounts = async (): Promise<string[]> =>
            (await node.exec(['findmnt', '-rno', 'TARGET']))
              .split('\n')
              .filter((one) => /^\/(sys|mnt)/.test(one));
          const before = await mounts();
          assert.match(await node.exec(['sh', '-c', CLEANUP, mesh.image.reference, node.name]), /^removed /m);
          assert.deepEqual(await mounts(), before, 'the node’s own mounts have changed');
        }
        await noneLeftOnNodes();
        assert.deepEqual(await ask(), { status: 200, isClear: true });
      } finally {
        await mesh.controlPlane.apiServer.start();
      }
    },
  );

  it('a daemon that works again takes the same pods back', LIMITS, async () => {
    const lives = livesOf(await mesh.pods(), DEMO);
    await mesh.install();
    await mesh.waitState('enrolled', DEMO);
    await until('requests in TLS', async () => {
      const { status, isClear } = await ask();
      return status === 200 && !isClear;
    });
    assert.deepEqual(livesOf(await mesh.pods(), DEMO), lives);
  });

  it(
    'culvert uninstall: no request is lost; no pin, program, cgroup, label or object is left',
    LIMITS,
    async () => {
      const loops = await startLoops();
      const uninstalled = await mesh.culvert(['uninstall', '--timeout', '120']);
      assert.equal(uninstalled.code, 0, uninstalled.stdout + uninstalled.stderr);
      assert.deepEqual(await ask(), { status: 200, isClear: true });
      for (const counts of await Promise.all(loops.map((loop) => loop.stop()))) {
        assert.equal(counts.failed, 0, JSON.stringify(counts));
        assert.ok(counts.ok > 50);
      }
      await noneLeftOnNodes();
      await noneLeftInCluster();
      assert.equal(await mesh.kubectl('get', 'namespaces', '-l', 'culvert.dev/mesh', '-o', 'name'), '');
      await noneSaysOfItself();
    },
  );

  it(
    'kubectl delete -k: the pods are open again; no pin, program, cgroup or object is left',
    LIMITS,
    async (context) => {
      await mesh.install();
      await mesh.label(true, DEMO);
      assert.deepEqual(await ask(), { status: 200, isClear: false });
      const loops = await startLoops();
      await mesh.kubectl('delete', '-k', mesh.overlay, '--timeout=110s');
      await nodesEmpty();
      assert.deepEqual(await ask(), { status: 200, isClear: true });
      await mostWereAnswered(loops, context);
      await noneLeftOnNodes();
      await noneLeftInCluster();
      await mesh.kubectl('annotate', 'pods', '--all', '-A', 'culvert.dev/state-');
      await noneSaysOfItself();
    },
  );

  it(
    'kubectl delete namespace, whose DaemonSet is whole until its pods are gone: the pods are open again, nothing is left on the nodes, and kubectl delete -k takes the rest',
    LIMITS,
    async (context) => {
      await mesh.install();
      await mesh.label(true, DEMO);
      assert.deepEqual(await ask(), { status: 200, isClear: false });
      const loops = await startLoops();
      await mesh.kubectl('delete', 'namespace', SYSTEM, '--timeout=110s');
      await nodesEmpty();
      assert.deepEqual(await ask(), { status: 200, isClear: true });
      await mostWereAnswered(loops, context);
      await noneLeftOnNodes();
      await noneSaysOfItself();
      await mesh.kubectl('delete', '-k', mesh.overlay, '--ignore-not-found', '--timeout=60s');
      await noneLeftInCluster();
    },
  );

  async function nodesEmpty(): Promise<void> {
    await until(
      'the nodes to be empty',
      async () => {
        const pins = await Promise.all(mesh.cluster.nodes.map(culvertPins));
        return pins.flat().length === 0;
      },
      { timeoutMs: 60_000, everyMs: 500 },
    );
  }

  async function mostWereAnswered(loops: readonly Loop[], context: TestContext): Promise<void> {
    for (const { started, ok } of await Promise.all(loops.map((loop) => loop.stop()))) {
      context.diagnostic(`${ok} of ${started} requests were answered throughout`);
      assert.ok(ok > 50);
    }
  }

  async function noneSaysOfItself(): Promise<void> {
    const saying = (await mesh.pods()).filter(({ state }) => state !== '');
    assert.deepEqual(saying, []);
  }

  const Programs = z.array(
    z.object({
      cgroup: z.string(),
      programs: z.array(z.object({ attach_type: z.string(), name: z.string() })),
    }),
  );
  const Links = z.array(z.object({ netns_ino: z.number().optional() }));

  /** No pin; no program on any cgroup of the node (but runc's for devices) or on a pod's namespace; no cgroup of ours. */
  async function noneLeftOnNodes(): Promise<void> {
    for (const node of mesh.cluster.nodes) {
      assert.deepEqual(await culvertPins(node), []);
      const tree = Programs.parse(
        JSON.parse((await must(['bpftool', '-j', 'cgroup', 'tree', node.cgroup])) || '[]'),
      );
      const programs = tree.flatMap(({ cgroup, programs }) => programs.map((one) => ({ cgroup, ...one })));
      assert.deepEqual(
        programs.filter((one) => !/device/.test(one.attach_type)),
        [],
      );
      const cgroups = readdirSync(node.cgroup, { recursive: true, encoding: 'utf8' });
      assert.deepEqual(
        cgroups.filter((path) => path.includes('culvert')),
        [],
      );
    }
    const links = Links.parse(JSON.parse(await must(['bpftool', '-j', 'link', 'show'])));
    for (const one of [client, server]) {
      const netns = statSync(one.place().netns ?? '').ino;
      assert.deepEqual(
        links.filter((link) => link.netns_ino === netns),
        [],
      );
    }
  }

  /** No object named or labelled as ours of any kind (requests for certificates go with the cluster's cleaner). */
  async function noneLeftInCluster(): Promise<void> {
    const kinds = (await mesh.kubectl('api-resources', '--verbs=list', '-o', 'name'))
      .split('\n')
      .filter(Boolean);
    const isOurs = (name: string): boolean =>
      /\/culvert/.test(name) && !/^(certificatesigningrequest|event)/.test(name);
    const listing = ['get', kinds.join(','), '-A', '-o', 'name', '--ignore-not-found'];
    let left: string[] = [];
    await until(
      'all objects to be gone',
      async () => {
        left = (await mesh.controlPlane.tryKubectl(listing)).stdout.split('\n').filter(isOurs);
        return left.length === 0;
      },
      { timeoutMs: 30_000, everyMs: 500, detail: () => left.join(' ') },
    );
    const labelled = ['get', kinds.join(','), '-A', '-l', 'app.kubernetes.io/name=culvert', '-o', 'name'];
    assert.equal((await mesh.controlPlane.tryKubectl(labelled)).stdout, '');
  }

  async function culvertPins(node: KubeNode): Promise<string[]> {
    return (await mesh.pins(node)).filter((path) => path.includes('culvert'));
  }
});
