/**
 * The lab of the interop tests: node-1 has a real daemon and pods of ours; node-2 has none, but pods that each have a
 * real ztunnel. What a daemon there would publish, the test does: that its pods take tunnels.
 */
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { PublishedStateWriter } from '../../daemon/cluster/published.ts';
import { parsePodUid } from '../../daemon/mesh/ids.ts';
import { must } from '../support/run.ts';
import type { Server } from '../lab/kit/apps.ts';
import type { LabService } from '../lab/kit/cluster.ts';
import type { LabDaemon } from '../lab/kit/daemon.ts';
import { Lab } from '../lab/kit/lab.ts';
import { MESH_LABEL, podObject } from '../lab/kit/objects.ts';
import type { LabPod } from '../lab/kit/pod.ts';
import type { LabProcess } from '../lab/kit/process.ts';
import { serveBulk } from './bulk.ts';
import { rootFile, startCa } from './ca.ts';
import type { Mesh, MeshPod } from './mesh.ts';
import { startRefuser } from './refuser.ts';
import { Ztunnel } from './ztunnel.ts';
import type { ZtunnelOptions } from './ztunnel.ts';

export const PORTS = {
  http: 8080,
  /** Ends after BULK bytes each way. */
  bulk: 8082,
  /** Its server sends nothing before its client has ended. */
  lateServer: 8081,
  /** Its server ends after SMALL bytes, whatever its client does. */
  small: 8083,
  echo: 8084,
  /** Its server speaks first. */
  hello: 8085,
  /** Nothing listens there. */
  closed: 8099,
  /** Listens, and ztunnel's policy has no rule for it. */
  denied: 9090,
  service: 80,
} as const;
export const DAEMON_FLAGS = ['--join-wait', '500ms'] as const;
export const BULK = 100_000_000;
export const SMALL = 300_000;

export interface Side {
  readonly pod: LabPod;
  readonly http: Server;
  readonly hello: Server;
  /** By port. */
  readonly bulk: ReadonlyMap<number, LabProcess>;
  readonly service: LabService;
}

export interface World {
  readonly lab: Lab;
  daemon: LabDaemon;
  /** Both its roles: our pod `ours` is a client and a server, and so is ztunnel's pod `peer`. */
  readonly ours: Side;
  readonly peer: Side;
  /** Ours, too, but no policy of ztunnel's lets it in. */
  readonly stranger: LabPod;
  /** A pod whose ztunnel has the right SAN under a root that nobody of ours trusts; it trusts ours. */
  readonly rogue: LabPod;
  readonly rogueHttp: Server;
  readonly refuser: LabPod;
  readonly denied: Server;
  readonly phantoms: Phantoms;
  ztunnel: Ztunnel;
  readonly rogueZtunnel: Ztunnel;
  /** Ends the peer's ztunnel and starts it again; SIGKILL is a crash. */
  restartZtunnel(signal?: NodeJS.Signals): Promise<void>;
}

/** A pod that is an address only: NAT leads its 15008 to `ours` or `peer`. */
type Phantom = MeshPod & { readonly uid: string };

interface Phantoms {
  /** Of the account that the pod behind it has: the CONNECT's address is wrong, the identity right. */
  readonly bentToOurs: Phantom;
  readonly bentToPeer: Phantom;
  /** Of another account: the identity is wrong. */
  readonly falseOurs: Phantom;
  readonly falsePeer: Phantom;
}

/** Makes it all. The lab goes with `world.lab`. */
export async function makeWorld(lab: Lab, binary: string): Promise<World> {
  const pods = await makePods(lab);
  const [ours, peer] = await Promise.all([side(lab, pods.ours), side(lab, pods.peer)]);
  const phantoms = await makePhantoms(lab, pods.ours, pods.peer);
  const { bentToPeer, falsePeer } = phantoms;
  await publish(lab, [pods.peer.uid, pods.rogue.uid, bentToPeer.uid, falsePeer.uid]);
  const [daemon, rogueHttp, denied] = await Promise.all([
    lab.startDaemon(1, { flags: DAEMON_FLAGS }),
    pods.rogue.serve('http', PORTS.http),
    pods.peer.serve('http', PORTS.denied),
  ]);
  await lab.cluster.waitPublished([pods.ours, pods.stranger], 'enrolled');
  await startRefuser(pods.refuser, { folder: join(lab.dir, 'ca') });

  const mesh = meshOf(Object.values(pods), phantoms, ours, peer);
  const authorities = await startAuthorities(lab, pods.peer, pods.rogue);
  const start = (pod: LabPod, authority: Authority): Promise<Ztunnel> =>
    Ztunnel.start(lab, pod, { binary, mesh, token: pod.uid, ...authority });
  const [ztunnel, rogueZtunnel] = await Promise.all([
    start(pods.peer, authorities.right),
    start(pods.rogue, authorities.wrong),
  ]);
  const world: World = {
    ...{ lab, daemon, ours, peer, rogueHttp, denied, phantoms, ztunnel, rogueZtunnel },
    ...{ stranger: pods.stranger, rogue: pods.rogue, refuser: pods.refuser },
    restartZtunnel: async (signal) => {
      await world.ztunnel.stop(signal);
      world.ztunnel = await start(pods.peer, authorities.right);
    },
  };
  return world;
}

async function makePods(lab: Lab) {
  for (const namespace of ['shop', 'peer'])
    await lab.cluster.namespace(namespace, { [MESH_LABEL]: 'enabled' });
  const [ours, stranger, peer, rogue, refuser] = await Promise.all([
    lab.pod({ name: 'ours', node: 1 }),
    lab.pod({ name: 'stranger', node: 1 }),
    lab.pod({ name: 'peer', namespace: 'peer', node: 2 }),
    lab.pod({ name: 'rogue', namespace: 'peer', node: 2 }),
    lab.pod({ name: 'refuser', namespace: 'plain', node: 1 }),
  ]);
  return { ours, stranger, peer, rogue, refuser };
}

/** The SPIFFE ID of a pod. */
export function identityOf(pod: Pick<MeshPod, 'namespace' | 'serviceAccount'>): string {
  return `spiffe://cluster.local/ns/${pod.namespace}/sa/${pod.serviceAccount}`;
}

async function side(lab: Lab, pod: LabPod): Promise<Side> {
  const [http, bulk, lateServer, small, hello] = await Promise.all([
    pod.serve('http', PORTS.http),
    serveBulk(pod, PORTS.bulk, { bytes: BULK }),
    serveBulk(pod, PORTS.lateServer, { bytes: SMALL, late: true }),
    serveBulk(pod, PORTS.small, { bytes: SMALL }),
    pod.serve('hello', PORTS.hello),
    pod.serve('echo', PORTS.echo, { quiet: true }),
  ]);
  const service = await lab.cluster.service({
    namespace: pod.namespace,
    name: `${pod.name}-web`,
    ports: [{ port: PORTS.service, targetPort: PORTS.http }],
    pods: [pod],
  });
  const servers = [
    [PORTS.bulk, bulk],
    [PORTS.lateServer, lateServer],
    [PORTS.small, small],
  ] as const;
  return { pod, http, hello, service, bulk: new Map(servers) };
}

/** What node-2's daemon would publish, had it one. */
async function publish(lab: Lab, uids: readonly string[]): Promise<void> {
  const { name } = lab.node(2);
  const states = uids.flatMap((text) => parsePodUid(text) ?? []);
  const sinceMs = Date.now();
  const writer = new PublishedStateWriter(lab.cluster.folder(name), name);
  await writer.publish(states.map((uid) => ({ uid, state: 'enrolled', sinceMs })));
}

async function makePhantoms(lab: Lab, ours: LabPod, peer: LabPod): Promise<Phantoms> {
  const make = (pod: LabPod, host: number, serviceAccount: string): Promise<Phantom> =>
    phantom(lab, pod, { host, serviceAccount });
  const phantoms = {
    bentToOurs: await make(ours, 250, ours.serviceAccount),
    falseOurs: await make(ours, 251, 'another'),
    bentToPeer: await make(peer, 250, peer.serviceAccount),
    falsePeer: await make(peer, 251, 'another'),
  };
  await bend(ours, [phantoms.bentToOurs, phantoms.falseOurs]);
  await bend(peer, [phantoms.bentToPeer, phantoms.falsePeer]);
  return phantoms;
}

async function phantom(
  lab: Lab,
  pod: LabPod,
  how: { readonly host: number; readonly serviceAccount: string },
): Promise<Phantom> {
  const made = {
    uid: randomUUID(),
    name: `phantom-${how.host}`,
    namespace: pod.namespace,
    serviceAccount: how.serviceAccount,
    nodeName: pod.nodeName,
    ips: [`10.244.${pod.node.index}.${how.host}`],
  };
  const common = { labels: {}, annotations: {}, ports: [], spec: {} };
  const state = { hostNetwork: false, running: true, ready: true };
  const hostIp = pod.node.addresses[0] ?? '';
  await lab.cluster.apply(podObject({ ...made, ...common, ...state, node: pod.nodeName, hostIp }));
  return made;
}

/** NAT on the node of `pod` leads its phantoms' 15008 to it. */
async function bend(pod: LabPod, phantoms: readonly MeshPod[]): Promise<void> {
  const rules = [
    'table ip interop {',
    ' chain prerouting { type nat hook prerouting priority dstnat - 1;',
    ...phantoms.map(({ ips }) => `  ip daddr ${ips[0] ?? ''} tcp dport 15008 dnat to ${pod.ip}`),
    ' }',
    '}',
    '',
  ];
  await must(['nsenter', `--net=${pod.node.netns}`, 'nft', '-f', '-'], { input: rules.join('\n') });
}

function meshOf(pods: readonly LabPod[], phantoms: Phantoms, ours: Side, peer: Side): Mesh {
  const ports = { port: PORTS.service, targetPort: PORTS.http };
  const services = [ours, peer].map(({ pod, service }) => ({
    ...{ name: service.name, namespace: service.namespace, vips: [service.ip, service.ip6] },
    ...ports,
    pods: [pod],
  }));
  const policy = {
    name: 'only-ours',
    namespace: peer.pod.namespace,
    from: { namespace: ours.pod.namespace, serviceAccount: ours.pod.serviceAccount },
    ports: Object.values(PORTS).filter((port) => port !== PORTS.denied),
  };
  const bent = [phantoms.bentToOurs, phantoms.falseOurs];
  return { pods: [...pods, ...bent], services, policies: [policy] };
}

/** Where a ztunnel gets its certificates. */
type Authority = Pick<ZtunnelOptions, 'caAddress' | 'caRoot'>;

/** Two CAs: on node-2 one that signs with the daemons' root; outside of the cluster one with a root of its own. */
async function startAuthorities(
  lab: Lab,
  peer: LabPod,
  rogue: LabPod,
): Promise<{ readonly right: Authority; readonly wrong: Authority }> {
  const [right, wrong] = [join(lab.dir, 'ca'), join(lab.dir, 'rogue-ca')];
  const node = lab.node(2);
  const outside = await lab.outside();
  const nodeAddress = node.addresses[0] ?? '';
  await startCa(node.place(), {
    folder: right,
    address: nodeAddress,
    tokens: { [peer.uid]: identityOf(peer) },
    alsoTrusts: [],
  });
  await startCa(
    { cgroup: join(lab.cgroup, 'tools'), netns: outside.netns },
    { folder: wrong, address: outside.ip, tokens: { [rogue.uid]: identityOf(rogue) }, alsoTrusts: [right] },
  );
  return {
    right: { caAddress: nodeAddress, caRoot: rootFile(right) },
    wrong: { caAddress: outside.ip, caRoot: rootFile(wrong) },
  };
}
