/**
 * `make lab`: a request between pods on two nodes, before its namespace is labelled, after, and after the label is
 * gone, with a packet capture each time. Every line with a tick has been checked; exits with 1 when one was false.
 */
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Server } from './kit/apps.ts';
import type { Capture } from './kit/capture.ts';
import type { LabService } from './kit/cluster.ts';
import type { LabDaemon, LogRecord } from './kit/daemon.ts';
import { Lab } from './kit/lab.ts';
import type { LabPod } from './kit/pod.ts';
import { claim, command, detail, failedClaims, heading, progress, say } from './terminal.ts';

const HBONE = 15_008;
const APP = 8080;
/** Shorter than the defaults, for the show. */
const FLAGS = ['--join-wait', '2s', '--leave-wait', '2s', '--leave-grace', '1s'];

interface Stage {
  readonly lab: Lab;
  readonly client: LabPod;
  readonly server: LabPod;
  readonly stranger: LabPod;
  readonly web: Server;
  readonly service: LabService;
  readonly daemons: readonly LabDaemon[];
}

async function build(lab: Lab): Promise<Stage> {
  const [client, server, stranger] = await progress('three pods with real processes', () =>
    Promise.all([
      lab.pod({ name: 'client', node: 1, labels: { app: 'client' } }),
      lab.pod({ name: 'server', node: 2, labels: { app: 'server' }, ports: [APP] }),
      lab.pod({ name: 'stranger', node: 1, namespace: 'elsewhere' }),
    ]),
  );
  const web = await server.serve('http', APP);
  const service = await lab.cluster.service({
    namespace: 'shop',
    name: 'web',
    ports: [{ name: 'http', port: 80, targetPort: APP }],
    selector: { app: 'server' },
    pods: [server],
  });
  const daemons = await progress('a daemon on each node: eBPF loaded, nothing captured yet', () =>
    lab.startDaemons({ flags: FLAGS }),
  );
  for (const pod of [client, server, stranger])
    detail(pod.name, `${pod.nodeName}  ${pod.ips.join('  ')}  namespace ${pod.namespace}`);
  detail('Service', `web.shop  ${service.ip}:80 → ${server.ip}:${APP}`);
  return { lab, client, server, stranger, web, service, daemons };
}

/** Everywhere that the request passes outside of the two pods. */
function listen(stage: Stage): Promise<Capture> {
  const { lab, client, server } = stage;
  const nodes = lab.nodes.map((node) => node.capturePoint);
  return lab.capture([lab.fabricPoint, client.capturePoint, server.capturePoint, ...nodes], 'tcp');
}

/** One request from client to Service with a marker in its body, captured on its way. */
async function request(stage: Stage): Promise<{ wire: Capture; marker: Buffer }> {
  const wire = await listen(stage);
  const marker = randomBytes(64);
  const before = (await stage.web.stats()).received;
  const reply = await stage.client.request(stage.service.ip, 80, { body: marker });
  const received = (await stage.web.stats()).received - before;
  claim(
    `client asked http://web.shop/ and got an answer: ${reply.status}`,
    reply.status === 200,
    reply.result.error || reply.result.end,
  );
  claim(`the server's app counted ${received} bytes of payload`, received > marker.length);
  const peer = reply.peer.slice(0, reply.peer.lastIndexOf(':'));
  claim(`and saw the client's own address, ${stage.client.ip}`, peer === stage.client.ip, peer);
  return { wire, marker };
}

async function inTheClear(stage: Stage): Promise<void> {
  const asked = await request(stage);
  await using wire = asked.wire;
  const seen = await wire.find(asked.marker);
  for (const [point, found] of seen) claim(`the capture at ${point} shows the request in clear text`, found);
}

async function overTls(stage: Stage): Promise<void> {
  const [sender, receiver] = stage.daemons;
  if (sender === undefined || receiver === undefined) throw new Error('two nodes, two daemons');
  const from = { sender: sender.process.lines.length, receiver: receiver.process.lines.length };
  const asked = await request(stage);
  await using wire = asked.wire;
  for (const [point, found] of await wire.find(asked.marker))
    claim(`the capture at ${point} finds no clear text`, !found);
  const onBridge = (await wire.tls(HBONE)).get('bridge');
  const records = onBridge?.applicationData ?? 0;
  claim(`but ${records} TLS records to and from port ${HBONE}, and`, records > 0);
  claim(`${onBridge?.handshakes ?? 0} of a TLS handshake`, (onBridge?.handshakes ?? 0) > 0);
  const isOf = (direction: string) => (record: LogRecord) => record['direction'] === direction;
  const [out, arrived] = await Promise.all([
    sender.waitForAccess('the sender’s access record', isOf('outbound'), { from: from.sender }),
    receiver.waitForAccess('the receiver’s access record', isOf('inbound'), { from: from.receiver }),
  ]);
  showRecord(out);
  const identity = (pod: LabPod): string =>
    `spiffe://cluster.local/ns/${pod.namespace}/sa/${pod.serviceAccount}`;
  for (const [who, record] of [
    ['sender', out],
    ['receiver', arrived],
  ] as const) {
    const proven = [record['src.identity'], record['dst.identity']];
    const wanted = [identity(stage.client), identity(stage.server)];
    claim(
      `the ${who}'s record names both identities and ends well`,
      record['reason'] === 'OK' && proven.join() === wanted.join(),
      `${text(record['reason'])} ${proven.map(text).join(' → ')}`,
    );
  }
  claim(
    'and the Service that was asked',
    text(out['dst.service']).startsWith('web'),
    text(out['dst.service']),
  );
}

function showRecord(record: LogRecord): void {
  say('access record of the sender:');
  detail('from', `${text(record['src.identity'])}  ${text(record['src.addr'])}`);
  detail('to', `${text(record['dst.identity'])}  ${text(record['dst.addr'])}`);
  detail('Service', text(record['dst.service']));
  detail('tunnel', `${text(record['dst.hbone_addr'])}  ${text(record['security'])}`);
  detail('bytes', `${text(record['bytes_sent'])} sent, ${text(record['bytes_recv'])} received`);
  detail('duration', text(record['duration']));
  detail('reason', text(record['reason']));
}

function text(value: unknown): string {
  return typeof value === 'string' || typeof value === 'number' ? String(value) : '–';
}

async function label(stage: Stage): Promise<void> {
  const { lab, client, server, web } = stage;
  const before = [client.sandboxPid, server.sandboxPid, web.process.pid];
  command('kubectl label namespace shop culvert.dev/mesh=enabled');
  await lab.cluster.label('shop', 'enabled');
  await progress('both pods are enrolled', () => waitState(stage, 'enrolled'));
  const alive = web.process.exit === undefined && before.every((pid) => existsSync(`/proc/${pid}`));
  claim('no pod was restarted, no process of theirs', alive);
}

async function strangerAsks(stage: Stage): Promise<void> {
  const reply = await stage.stranger.request(stage.server.ip, APP);
  claim(
    'the pod outside the mesh still reaches the server in the clear: its mode is PERMISSIVE',
    reply.status === 200,
    reply.result.error,
  );
}

/** Requests go on while the label comes off: none may be lost. */
async function unlabel(stage: Stage): Promise<void> {
  const { lab, client, service } = stage;
  const loop = await client.loop(service.ip, 80, { everyMs: 50 });
  command('kubectl label namespace shop culvert.dev/mesh-');
  await lab.cluster.label('shop', undefined);
  await progress('both pods are left alone again', () => waitState(stage, 'none'));
  const { ok, failed, errors } = await loop.stop();
  claim(
    `${ok} requests meanwhile, each on a new connection, none lost`,
    failed === 0,
    JSON.stringify(errors),
  );
}

/** Until each node's daemon says so of its pod. */
async function waitState({ client, server, daemons }: Stage, state: string): Promise<void> {
  const pods = [client, server];
  await Promise.all(
    daemons.map(async (daemon) => {
      for (const pod of pods.filter(({ node }) => node === daemon.node)) await daemon.waitState(pod, state);
    }),
  );
}

/** Leaves the lab up, enrolled, until Ctrl-C. */
async function stayUp(stage: Stage): Promise<void> {
  const { lab, client, server, service } = stage;
  await lab.cluster.label('shop', 'enabled');
  await waitState(stage, 'enrolled');
  heading('The lab stays up, with the label on. Each of these is a shell in a pod, or runs what follows it:');
  const shell = (pod: LabPod): string => join(lab.dir, pod.name);
  for (const pod of [client, server, stage.stranger]) {
    await pod.writeShell(shell(pod));
    detail(pod.name, shell(pod));
  }
  say('For example:');
  command(`${shell(client)} curl -s http://${service.ip}/`);
  command(`${shell(server)} iperf3 -s -D; ${shell(client)} iperf3 -c ${server.ip}`);
  command(`${shell(client)} psql -h ${server.ip} -U postgres    # once a PostgreSQL runs in server`);
  say('Watch:');
  for (const daemon of stage.daemons) detail(daemon.node.name, `tail -f ${daemon.logFile}`);
  detail('the cluster', lab.cluster.folder('node-1'));
  detail('the wire', `nsenter --net=${lab.fabricPoint.netns} tcpdump -i br0 -nA`);
  say('Ctrl-C ends it and removes everything.');
  await new Promise((resolve) => process.once('SIGINT', resolve));
}

async function tell(stage: Stage): Promise<void> {
  heading('1  Before the label');
  await inTheClear(stage);
  heading('2  The label');
  await label(stage);
  await overTls(stage);
  await strangerAsks(stage);
  heading('3  The label comes off');
  await unlabel(stage);
  await inTheClear(stage);
}

async function main(): Promise<void> {
  heading('Two nodes, one wire');
  await using lab = await progress('two nodes: namespaces, cgroups, a bridge between them', () =>
    Lab.create(),
  );
  try {
    const stage = await build(lab);
    await tell(stage);
    if (process.env['KEEP'] === '1') await stayUp(stage);
  } catch (error) {
    claim('the story was told to its end', false, error instanceof Error ? error.message : String(error));
  }
  await progress('everything is removed', () => lab[Symbol.asyncDispose]());
  heading(failedClaims() === 0 ? 'Every claim above was checked.' : `${failedClaims()} claims were false.`);
}

await main();
process.exitCode = failedClaims() === 0 ? 0 : 1;
