/** Two ends of HBONE on loopback with real TLS, for tests: no namespaces, no kernel hooks. */
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { createServer, Socket } from 'node:net';
import type { AddressInfo, Server } from 'node:net';
import type { Duplex } from 'node:stream';
import { parseConfig } from '../../daemon/config.ts';
import type { Config } from '../../daemon/config.ts';
import { parseIp, parsePodUid, parseSpiffeId } from '../../daemon/mesh/ids.ts';
import type { Ip, PodUid, SpiffeId } from '../../daemon/mesh/ids.ts';
import { createTunnels } from '../../daemon/proxy/hbone/pool.ts';
import { createTunnelServer } from '../../daemon/proxy/hbone/server.ts';
import type {
  Identities,
  IncomingConnect,
  LocalIdentity,
  PeerVerdict,
  Refusal,
  TunnelRequest,
  Tunnels,
  TunnelServer,
} from '../../daemon/proxy/seams.ts';
import { issue, localIdentity, makeCa } from '../support/pki.ts';
import type { TestCa } from '../support/pki.ts';

function must<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('a constant of the test kit is wrong');
  return value;
}

export const CLIENT_ID: SpiffeId = must(parseSpiffeId('spiffe://cluster.local/ns/app/sa/client'));
export const SERVER_ID: SpiffeId = must(parseSpiffeId('spiffe://cluster.local/ns/app/sa/server'));
export const OTHER_ID: SpiffeId = must(parseSpiffeId('spiffe://cluster.local/ns/app/sa/other'));
export const CLIENT_POD: PodUid = must(parsePodUid('11111111-1111-1111-1111-111111111111'));
export const SERVER_POD: PodUid = must(parsePodUid('22222222-2222-2222-2222-222222222222'));
export const LOOPBACK: Ip = must(parseIp('127.0.0.1'));
/** Never a certificate, only a shape: the checks of identity/svid.ts have their own tests. */
export const judge: Pick<Identities, 'verifyPeer' | 'trust'> = {
  trust: () => undefined,
  verifyPeer(leafDer): PeerVerdict {
    const names = new X509Certificate(leafDer).subjectAltName ?? '';
    const id = parseSpiffeId(names.replace(/^URI:/, ''));
    return id === undefined
      ? { ok: false, reason: 'PEER_CERTIFICATE_INVALID', detail: 'no SVID' }
      : { ok: true, id };
  },
};

export function testConfig(overrides: Partial<Config> = {}): Config {
  return { ...parseConfig({ nodeName: 'test' }, {}), ...overrides };
}

export interface Wire {
  readonly ca: TestCa;
  readonly config: Config;
  readonly port: number;
  readonly server: TunnelServer;
  readonly tunnels: Tunnels;
  readonly serverIdentity: LocalIdentity;
  readonly clientIdentity: LocalIdentity;
  /** What the server refused before any CONNECT. */
  readonly refused: Refusal[];
  /** Sockets that arrived. */
  readonly accepted: Socket[];
  /** Decides about each CONNECT; set by the test. */
  onConnect: (connect: IncomingConnect) => void;
  /** Who the server says it is, from the next connection on. */
  presents: LocalIdentity;
  request(changes?: Partial<TunnelRequest>): TunnelRequest;
  /** Resolves with the next refusal of the server. */
  nextRefusal(): Promise<Refusal>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** A tunnel server on a loopback port and a pool that dials it. */
export async function openWire(overrides: Partial<Config> = {}): Promise<Wire> {
  const ca = makeCa();
  const config = testConfig(overrides);
  const server = createTunnelServer(config, judge);
  const refused: Refusal[] = [];
  const waiting: ((refusal: Refusal) => void)[] = [];
  const accepted: Socket[] = [];
  const listener = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
    accepted.push(socket);
    server.serve(socket, {
      podUid: SERVER_POD,
      identity: wire.presents,
      onConnect: (connect) => wire.onConnect(connect),
      onRefused: (refusal) => {
        refused.push(refusal);
        waiting.shift()?.(refusal);
      },
    });
  });
  const port = await listen(listener);
  const tunnels = createTunnels({ config, identities: judge, port });
  const serverIdentity = identityOf(ca, SERVER_ID);
  const clientIdentity = identityOf(ca, CLIENT_ID);
  const wire: Wire = {
    ca,
    config,
    port,
    server,
    tunnels,
    serverIdentity,
    clientIdentity,
    refused,
    accepted,
    presents: serverIdentity,
    onConnect: (connect) => echo(connect.accept()),
    request: (changes = {}) => requestOf(clientIdentity, changes),
    nextRefusal: () => new Promise((resolve) => waiting.push(resolve)),
    async [Symbol.asyncDispose]() {
      tunnels.closePod(CLIENT_POD, true);
      server.closePod(SERVER_POD, true);
      for (const socket of accepted) socket.destroy();
      listener.close();
      await once(listener, 'close');
    },
  };
  return wire;
}

export function identityOf(ca: TestCa, id: SpiffeId, generation = 1): LocalIdentity {
  return localIdentity(id, issue(ca, id), ca.certPem, generation);
}

export function requestOf(identity: LocalIdentity, changes: Partial<TunnelRequest> = {}): TunnelRequest {
  return {
    key: { podUid: CLIENT_POD, sourceId: identity.id, destinationId: SERVER_ID, address: LOOPBACK },
    identity,
    dial: () => ({ ok: true, socket: new Socket() }),
    authority: '10.0.0.1:80',
    headers: {},
    signal: new AbortController().signal,
    ...changes,
  };
}

/** Listens on a free loopback port. */
export async function listen(server: Server): Promise<number> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return portOf(server);
}

function portOf(server: Server): number {
  const address: AddressInfo | string | null = server.address();
  if (address === null || typeof address === 'string') throw new Error('not listening on TCP');
  return address.port;
}

/** A connected pair of TCP sockets, allowHalfOpen. */
export async function socketPair(): Promise<{ near: Socket; far: Socket }> {
  const server = createServer({ allowHalfOpen: true });
  const port = await listen(server);
  const near = new Socket({ allowHalfOpen: true });
  const arrived = new Promise<Socket>((resolve) => server.once('connection', resolve));
  near.connect(port, '127.0.0.1');
  const [far] = await Promise.all([arrived, once(near, 'connect')]);
  server.close();
  for (const socket of [near, far]) socket.on('error', () => undefined);
  return { near, far };
}

/** Sends back all that comes, and the end too. */
export function echo(end: Duplex): void {
  end.on('data', (chunk) => {
    if (!end.write(chunk)) end.pause();
  });
  end.on('drain', () => end.resume());
  end.once('end', () => end.end());
}
