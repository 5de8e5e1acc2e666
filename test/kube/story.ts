/**
 * `make cluster`: the story of `make lab` on a real Kubernetes, told by kubectl. A request between pods on two nodes,
 * before their namespace is labelled, after, and after the label is gone, with a packet capture each time. Every line
 * with a tick has been checked; exits with 1 when one was false. KEEP=1: the cluster stays up.
 */
import { randomBytes } from 'node:crypto';
import { existsSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { z } from 'zod';
import type { Capture } from '../lab/kit/capture.ts';
import { REPOSITORY } from '../lab/kit/tools.ts';
import { claim, command, detail, failedClaims, heading, progress, say } from '../lab/terminal.ts';
import { until } from '../support/wait.ts';
import { builtImage } from './image/builder.ts';
import { KubeCluster } from './kit/cluster.ts';
import { KEPT, PREFIX } from './kit/home.ts';
import { pod, service } from './kit/objects.ts';
import { Shell } from './kit/shell.ts';

const HBONE = 15_008;
const APP = 8080;
const OVERLAY = join(REPOSITORY, 'manifests/overlays/dev');
const isKept = process.env['KEEP'] === '1';

const LogRecord = z.record(z.string(), z.unknown());
type LogRecord = z.infer<typeof LogRecord>;

interface Stage {
  readonly cluster: KubeCluster;
  readonly shop: Shell;
  readonly clientIp: string;
  readonly serverIp: string;
  readonly serviceIp: string;
}

/** Runs kubectl as a person would, and shows it. */
async function kubectl(cluster: KubeCluster, ...words: readonly string[]): Promise<string> {
  command(`kubectl ${words.join(' ').replace(`${REPOSITORY}/`, '')}`);
  return cluster.controlPlane.kubectl(words, { timeoutMs: 300_000 });
}

async function demo(cluster: KubeCluster): Promise<Stage> {
  const shop = new Shell(cluster.controlPlane, 'shop');
  const namespaces = ['shop', 'elsewhere'].map((name) => ({
    apiVersion: 'v1',
    kind: 'Namespace',
    metadata: { name },
  }));
  const serve = ['/labapp', 'serve', 'http', '::', String(APP), '--name', 'web'];
  await progress('three pods and a Service', async () => {
    await cluster.controlPlane.apply(
      ...namespaces,
      ...['client', 'server'].map((name) => ({
        apiVersion: 'v1',
        kind: 'ServiceAccount',
        metadata: { name, namespace: 'shop' },
      })),
      pod({ name: 'client', namespace: 'shop', node: 'node-1', serviceAccount: 'client' }),
      pod({ name: 'server', namespace: 'shop', node: 'node-2', serviceAccount: 'server', command: serve }),
      pod({ name: 'stranger', namespace: 'elsewhere', node: 'node-1' }),
      service({ name: 'web', namespace: 'shop', pods: 'server', port: 80, targetPort: APP }),
    );
    await shop.waitReady('client', 'server');
    await new Shell(cluster.controlPlane, 'elsewhere').waitReady('stranger');
  });
  const [clientIp, serverIp] = [await shop.ip('client'), await shop.ip('server')];
  const serviceIp = await shop.serviceIp('web');
  detail('client', `node-1  ${clientIp}  namespace shop`);
  detail('server', `node-2  ${serverIp}  namespace shop`);
  detail('stranger', 'node-1  namespace elsewhere');
  detail('Service', `web.shop  ${serviceIp}:80 → ${serverIp}:${APP}`);
  return { cluster, shop, clientIp, serverIp, serviceIp };
}

async function install(cluster: KubeCluster): Promise<void> {
  const image = await progress('our image, by buildah from the Dockerfile', () => builtImage());
  detail('image', `${image.reference}  ${image.digest}  ${Math.round(image.archiveBytes / 2 ** 20)} MiB`);
  await progress('it is loaded on both nodes', () => cluster.loadImage(image.archive));
  await kubectl(cluster, 'apply', '-k', OVERLAY);
  const rollout = (what: string): Promise<string> =>
    cluster.controlPlane.kubectl(['rollout', 'status', '-n', 'culvert-system', what, '--timeout=120s'], {
      timeoutMs: 150_000,
    });
  await progress('the cluster CA is there, and a daemon on each node', () =>
    Promise.all([rollout('deployment/culvert-ca'), rollout('daemonset/culvert')]),
  );
}

/** One request from client to Service with a marker in its body, captured on its way. */
async function request(stage: Stage): Promise<{ wire: Capture; marker: Buffer }> {
  const wire = await stage.cluster.capture(undefined, 'tcp');
  const marker = randomBytes(64);
  const reply = await stage.shop.request('client', stage.serviceIp, 80, marker);
  claim(
    `client asked http://web.shop/ and got an answer: ${reply.status}`,
    reply.status === 200,
    reply.result.error || reply.result.end,
  );
  const peer = reply.peer.slice(0, reply.peer.lastIndexOf(':')).replace('::ffff:', '');
  claim(`the server's app saw the client's own address, ${stage.clientIp}`, peer === stage.clientIp, peer);
  return { wire, marker };
}

async function inTheClear(stage: Stage): Promise<void> {
  const asked = await request(stage);
  await using wire = asked.wire;
  for (const [point, found] of await wire.find(asked.marker))
    claim(`the capture at ${point} shows the request in clear text`, found);
}

async function overTls(stage: Stage): Promise<void> {
  const asked = await request(stage);
  await using wire = asked.wire;
  for (const [point, found] of await wire.find(asked.marker))
    claim(`the capture at ${point} finds no clear text`, !found);
  const records = (await wire.tls(HBONE)).get('bridge')?.applicationData ?? 0;
  claim(`but ${records} TLS records to and from port ${HBONE}`, records > 0);
  for (const direction of ['outbound', 'inbound'] as const) {
    const record = await accessRecord(stage, direction);
    const proven = [record['src.identity'], record['dst.identity']].map(String);
    const wanted = ['client', 'server'].map((name) => `spiffe://cluster.local/ns/shop/sa/${name}`);
    claim(
      `the ${direction} access record has both identities: ${proven.join(' → ')}`,
      record['reason'] === 'OK' && proven.join() === wanted.join(),
      JSON.stringify(record),
    );
  }
}

/** What a daemon logged of the last connection in that direction. */
async function accessRecord(stage: Stage, direction: 'outbound' | 'inbound'): Promise<LogRecord> {
  const labels = 'app.kubernetes.io/name=culvert,app.kubernetes.io/component=daemon';
  const words = ['logs', '-n', 'culvert-system', '-l', labels, '--tail=500'];
  return until(`the ${direction} access record`, async () => {
    const lines = (await stage.cluster.controlPlane.kubectl(words)).split('\n');
    const records = lines.flatMap((line) =>
      line.startsWith('{') ? [LogRecord.parse(JSON.parse(line))] : [],
    );
    return records.findLast(
      (record) => record['direction'] === direction && record['dst.identity'] !== undefined,
    );
  });
}

/** The published state of both pods, as peers read it. */
async function waitState(stage: Stage, state: string | undefined): Promise<void> {
  const read = '{range .items[*]}{.metadata.annotations.culvert\\.dev/state}{"\\n"}{end}';
  const words = ['get', 'pods', '-n', 'shop', '-o', `jsonpath=${read}`];
  let last = '';
  await until(
    `both pods to be ${state ?? 'left alone'}`,
    async () => {
      last = await stage.cluster.controlPlane.kubectl(words);
      const states = last.split('\n').slice(0, 2);
      return states.every((one) => (state === undefined ? one === '' : one.includes(`"${state}"`)));
    },
    { timeoutMs: 60_000, everyMs: 500, detail: () => last },
  );
}

/** What would differ had a container been started again. */
function containers(stage: Stage): Promise<string> {
  const read = '{range .items[*]}{.status.containerStatuses[*].containerID}{"\\n"}{end}';
  return stage.cluster.controlPlane.kubectl(['get', 'pods', '-n', 'shop', '-o', `jsonpath=${read}`]);
}

async function tell(stage: Stage): Promise<void> {
  const { cluster } = stage;
  heading('1  Before the label');
  await inTheClear(stage);
  heading('2  The label');
  const before = await containers(stage);
  await kubectl(cluster, 'label', 'namespace', 'shop', 'culvert.dev/mesh=enabled');
  await progress('both pods are enrolled', () => waitState(stage, 'enrolled'));
  claim('no container was restarted', (await containers(stage)) === before);
  await overTls(stage);
  const elsewhere = new Shell(cluster.controlPlane, 'elsewhere');
  const reply = await elsewhere.request('stranger', stage.serverIp, APP);
  claim(
    'the pod outside the mesh still reaches the server in the clear: its mode is PERMISSIVE',
    reply.status === 200,
    reply.result.error,
  );
  if (isKept) return;
  heading('3  The label comes off');
  await kubectl(cluster, 'label', 'namespace', 'shop', 'culvert.dev/mesh-');
  await progress('both pods are left alone again', () => waitState(stage, undefined));
  await inTheClear(stage);
}

/** For whoever has to find out why. */
async function showState({ controlPlane }: KubeCluster): Promise<void> {
  for (const words of [
    ['get', 'pods', '-A', '-o', 'wide'],
    ['get', 'events', '-A', '--field-selector=type=Warning'],
    ['logs', '-n', 'culvert-system', '-l', 'app.kubernetes.io/name=culvert', '--tail=8', '--prefix'],
  ]) {
    command(`kubectl ${words.join(' ')}`);
    const { stdout, stderr } = await controlPlane.tryKubectl(words);
    console.log(`${stdout}${stderr}`);
  }
}

/** What a person does with it. */
async function stayUp(cluster: KubeCluster): Promise<void> {
  const { home, kubeconfig } = cluster.controlPlane;
  await home.keep();
  heading('The cluster stays up:');
  command(`export KUBECONFIG=${kubeconfig} PATH=${home.dir}:$PATH`);
  command('kubectl get pods -A -o wide');
  command('kubectl exec -n shop client -- wget -qO- http://$SERVICE_IP/    # there is no cluster DNS');
  for (const node of cluster.nodes)
    detail(node.name, `nsenter -t ${node.initPid} -a --wd=/    logs: ${join(node.dir, 'log')}`);
  detail('the wire', `nsenter --net=${cluster.controlPlane.netns} tcpdump -i br0 -nA`);
  say('make cluster-down removes it.');
}

/** Folders of clusters that stayed up. */
function kept(): string[] {
  const folders = readdirSync(tmpdir()).filter((name) => name.startsWith(PREFIX));
  return folders.map((name) => join(tmpdir(), name)).filter((folder) => existsSync(join(folder, KEPT)));
}

async function main(): Promise<void> {
  heading('A real Kubernetes, two nodes, no Docker');
  const [up] = kept();
  if (up !== undefined) {
    console.error(
      `  a cluster is up already: KUBECONFIG=${up}/pki/admin.kubeconfig; make cluster-down removes it`,
    );
    process.exitCode = 1;
    return;
  }
  await using cluster = await progress('etcd, API server, controllers, two kubelets: both nodes Ready', () =>
    KubeCluster.start(),
  );
  try {
    await install(cluster);
    await tell(await demo(cluster));
  } catch (error) {
    claim('the story was told to its end', false, error instanceof Error ? error.message : String(error));
    await showState(cluster);
  }
  if (isKept) await stayUp(cluster);
  else await progress('everything is removed', () => cluster[Symbol.asyncDispose]());
  heading(failedClaims() === 0 ? 'Every claim above was checked.' : `${failedClaims()} claims were false.`);
  process.exitCode = failedClaims() === 0 ? 0 : 1;
}

await main();
