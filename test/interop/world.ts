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
import type { LabNode } from '../lab/kit/node.ts';
import { MESH_LABEL, podObject } from '../lab/kit/objects.ts';
import type { LabPod } from '../lab/kit/pod.ts';
import type { LabProcess } from '../lab/kit/process.ts';
import { serveBulk } from './bulk.ts';
import { rootFile, startCa } from './ca.ts';
import type { Mesh, MeshPod } from './mesh.ts';
import { startRefuser } from './refuser.ts';
import { Ztunnel } from './ztunnel.ts';

export const PORTS = {
  http: 8080,
  /** Ends after BULK bytes each way. */
  bulk: 8082,
  /** Its server sends nothing before its client has ended. */
  lateServer: 8081,
  /** Its server ends after SMALL bytes, whatever its client does. */
  small: 8083,
  /** Nothing listens there. */
  closed: 8099,
  /** Listens, and ztunnel's policy has no rule for it. */
  denied: 9090,
  service: 80,
} as const;
export const BULK = 100_000_000;
export const SMALL = 300_000;

export interface Side {
  readonly pod: LabPod;
  readonly http: Server;
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
  restartZtunnel(): Promise<void>;
}

/** Pods that are addresses only: NAT leads their 15008 to `ours` or `peer`. */
interface Phantoms {
  /** Of the account that the pod behind it has: the CONNECT's address is wrong, the identity right. */
  readonly bentToOurs: MeshPod;
  readonly bentToPeer: MeshPod;
  /** Of another account: the identity is wrong. */
  readonly falseOurs: MeshPod;
  readonly falsePeer: MeshPod;
}

/** Makes it all. The lab goes with `world.lab`. */
export async function makeWorld(lab: Lab, binary: string): Promise<World> {
  for (const namespace of ['shop', 'peer'])
    await lab.cluster.namespace(namespace, { [MESH_LABEL]: 'enabled' });
  const [oursPod, stranger, peerPod, rogue, refuser] = await Promise.all([
    lab.pod({ name: 'ours', node: 1 }),
    lab.pod({ name: 'stranger', node: 1 }),
    lab.pod({ name: 'peer', namespace: 'peer', node: 2 }),
    lab.pod({ name: 'rogue', namespace: 'peer', node: 2 }),
    lab.pod({ name: 'refuser', namespace: 'plain', node: 1 }),
  ]);
  const [ours, peer] = await Promise.all([side(lab, oursPod), side(lab, peerPod)]);
  const phantoms = await makePhantoms(lab, oursPod, peerPod);
  await publish(lab, [peerPod.uid, rogue.uid, uidOf(phantoms.bentToPeer), uidOf(phantoms.falsePeer)]);
  const [daemon, rogueHttp, denied] = await Promise.all([
    lab.startDaemon(1, { flags: ['--join-wait', '500ms'] }),
    rogue.serve('http', PORTS.http),
    peerPod.serve('http', PORTS.denied),
  ]);
  await lab.cluster.waitPublished([oursPod, stranger], 'enrolled');

  const mesh = meshOf([oursPod, stranger, refuser, peerPod, rogue], phantoms, ours, peer);
  const authorities = await startAuthorities(lab, peerPod, rogue);
  await startRefuser(refuser, { folder: join(lab.dir, 'ca') });
  const start = (): Promise<Ztunnel> =>
    Ztunnel.start(lab, peerPod, { binary, mesh, token: peerPod.uid, ...authorities.right });
  const [ztunnel, rogueZtunnel] = await Promise.all([
    start(),
    Ztunnel.start(lab, rogue, { binary, mesh, token: rogue.uid, ...authorities.wrong }),
  ]);
  const world: World = {
    ...{ lab, daemon, ours, peer, stranger, rogue, rogueHttp, refuser, denied, phantoms },
    ...{ ztunnel, rogueZtunnel },
    restartZtunnel: async () => {
      await world.ztunnel.stop();
      world.ztunnel = await start();
    },
  };
  return world;
}

/** The SPIFFE ID of a pod. */
export function identityOf(pod: Pick<MeshPod, 'namespace' | 'serviceAccount'>): string {
  return `spiffe://cluster.local/ns/${pod.namespace}/sa/${pod.serviceAccount}`;
}

async function side(lab: Lab, pod: LabPod): Promise<Side> {
  const [http, bulk, lateServer, small] = await Promise.all([
    pod.serve('http', PORTS.http),
    serveBulk(pod, PORTS.bulk, { bytes: BULK }),
    serveBulk(pod, PORTS.lateServer, { bytes: SMALL, late: true }),
    serveBulk(pod, PORTS.small, { bytes: SMALL }),
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
  return { pod, http, service, bulk: new Map(servers) };
}

/** What node-2's daemon would publish, had it one. */
async function publish(lab: Lab, uids: readonly string[]): Promise<void> {
  const { name } = lab.node(2);
  const states = uids.flatMap((text) => parsePodUid(text) ?? []);
  const sinceMs = Date.now();
  const writer = new PublishedStateWriter(lab.cluster.folder(name), name);
  await writer.publish(states.map((uid) => ({ uid, state: 'enrolled', sinceMs })));
}

const phantomUids = new Map<MeshPod, string>();

function uidOf(phantom: MeshPod): string {
  return phantomUids.get(phantom) ?? '';
}

async function makePhantoms(lab: Lab, ours: LabPod, peer: LabPod): Promise<Phantoms> {
  const make = (pod: LabPod, host: number, serviceAccount: string): Promise<MeshPod> =>
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
): Promise<MeshPod> {
  const made = {
    name: `phantom-${how.host}`,
    namespace: pod.namespace,
    serviceAccount: how.serviceAccount,
    nodeName: pod.nodeName,
    ips: [`10.244.${pod.node.index}.${how.host}`],
  };
  const uid = randomUUID();
  phantomUids.set(made, uid);
  const common = { labels: {}, annotations: {}, ports: [], spec: {} };
  const state = { hostNetwork: false, running: true, ready: true };
  const hostIp = pod.node.addresses[0] ?? '';
  await lab.cluster.apply(podObject({ ...made, ...common, ...state, uid, node: pod.nodeName, hostIp }));
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
  const node: LabNode = pod.node;
  await must(['nsenter', `--net=${node.netns}`, 'nft', '-f', '-'], { input: rules.join('\n') });
}

function meshOf(pods: readonly LabPod[], phantoms: Phantoms, ours: Side, peer: Side): Mesh {
  const ports = { port: PORTS.service, targetPort: PORTS.http };
  const services = [ours, peer].map(({ pod, service }) => ({
    ...{ name: service.name, namespace: service.namespace, vips: [service.ip, service.ip6] },
    ...ports,
    pods: [pod],
  }));
  const { http, bulk, lateServer, small, closed } = PORTS;
  const policy = {
    name: 'only-ours',
    namespace: peer.pod.namespace,
    from: { namespace: ours.pod.namespace, serviceAccount: ours.pod.serviceAccount },
    ports: [http, bulk, lateServer, small, closed],
  };
  const bent = [phantoms.bentToOurs, phantoms.falseOurs];
  return { pods: [...pods, ...bent], services, policies: [policy] };
}

/** Two CAs beside node-2's host network: one signs with the daemons' root, one with a root of its own. */
async function startAuthorities(lab: Lab, peer: LabPod, rogue: LabPod) {
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
