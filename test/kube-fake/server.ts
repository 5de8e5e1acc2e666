/** A small API server for tests: lists in pages, watches with bookmarks, and any fault one asks for. */
import { createServer } from 'node:https';
import type { Server } from 'node:https';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import type { Access, Credentials } from '../../daemon/kube/config.ts';
import { issue, makeCa } from '../support/pki.ts';
import type { TestCa } from '../support/pki.ts';

export interface FakeObject {
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace: string; readonly resourceVersion: string };
  readonly value: string;
}

interface OpenWatch {
  readonly query: URLSearchParams;
  /** As a real server does, it is told only of what is newer. */
  readonly from: number;
  readonly response: ServerResponse;
}

/** Handles a request instead of the server. */
export type Fault = (request: IncomingMessage, response: ServerResponse) => void;

export class FakeServer implements AsyncDisposable {
  readonly ca: TestCa;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly objects = new Map<string, FakeObject>();
  readonly watches = new Set<OpenWatch>();
  /** Method, path and query of every request so far. */
  readonly requests: URL[] = [];
  readonly headers: IncomingMessage['headers'][] = [];
  /** Taken one by one by the next requests that `when` picks. */
  readonly #faults: { readonly when: (url: URL) => boolean; readonly fault: Fault }[] = [];
  /** Versions below it are Gone. */
  oldest = 0;
  version = 1;
  #log: { readonly version: number; readonly line: string }[] = [];
  /** Of lists of several pages, by their version. */
  readonly #snapshots = new Map<number, readonly FakeObject[]>();
  #waiting: { readonly isTrue: () => boolean; readonly resolve: () => void }[] = [];

  private constructor(ca: TestCa, host: string) {
    this.ca = ca;
    const { chainPem, keyPem } = issue(ca, [], { dns: [host], commonName: host, usages: ['serverAuth'] });
    this.#server = createServer({ cert: chainPem, key: keyPem }, (request, response) =>
      this.#serve(request, response),
    );
    this.#server.on('secureConnection', (socket: Socket) => {
      this.#sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => this.#sockets.delete(socket));
    });
    this.#server.on('tlsClientError', () => undefined);
  }

  static async start(ca = makeCa(), host = 'kubernetes'): Promise<FakeServer> {
    const server = new FakeServer(ca, host);
    await new Promise<void>((resolve) => server.#server.listen(0, '127.0.0.1', resolve));
    return server;
  }

  /** How to reach it: with a token by default. */
  access(over: Partial<Credentials> = {}, onRenew: () => void = () => undefined): Access {
    const { port } = this.#server.address() as AddressInfo;
    return {
      server: `https://127.0.0.1:${port}`,
      serverName: 'kubernetes',
      credentials: () =>
        Promise.resolve({
          ca: this.ca.certPem,
          cert: undefined,
          key: undefined,
          authorization: 'Bearer sesame',
          impersonate: undefined,
          ...over,
        }),
      renew: onRenew,
    };
  }

  /** Creates or changes an object; watchers are told. */
  put(name: string, value: string, namespace = 'shop'): void {
    const key = `${namespace}/${name}`;
    const type = this.objects.has(key) ? 'MODIFIED' : 'ADDED';
    const metadata = { name, namespace, resourceVersion: String(++this.version) };
    const object = { kind: 'Thing', metadata, value };
    this.objects.set(key, object);
    this.#tell(type, object);
  }

  remove(name: string, namespace = 'shop'): void {
    const object = this.objects.get(`${namespace}/${name}`);
    if (object === undefined) return;
    this.objects.delete(`${namespace}/${name}`);
    const resourceVersion = String(++this.version);
    this.#tell('DELETED', { ...object, metadata: { ...object.metadata, resourceVersion } });
  }

  bookmark(): void {
    const metadata = { resourceVersion: String(++this.version) };
    this.#lineSince(JSON.stringify({ type: 'BOOKMARK', object: { metadata } }));
  }

  /** Its etcd is restored from a copy of an earlier time, that had `objects`, and it is started anew. */
  restore(version: number, objects: Readonly<Record<string, string>>): void {
    this.version = version;
    this.#log = [];
    this.objects.clear();
    for (const [name, value] of Object.entries(objects)) {
      const metadata = { name, namespace: 'shop', resourceVersion: String(version) };
      this.objects.set(`shop/${name}`, { kind: 'Thing', metadata, value });
    }
    this.reset();
  }

  /** Writes bytes into every open watch. */
  line(text: string): void {
    for (const { response } of this.watches) response.write(`${text}\n`);
  }

  /** Ends every watch as a server does whose timeout has come. */
  endWatches(): void {
    for (const { response } of this.watches) response.end();
  }

  /** Every connection is reset. */
  reset(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  /** The next request that `when` picks gets `fault` instead of an answer. */
  once(when: (url: URL) => boolean, fault: Fault): void {
    this.#faults.push({ when, fault });
    this.#look();
  }

  lists(): readonly URL[] {
    return this.requests.filter((url) => !isWatch(url) && url.pathname === PATH);
  }

  /** Of each list's page so far, how many objects came before it. */
  pages(): readonly number[] {
    return this.lists().map(({ searchParams }) => Number.parseInt(searchParams.get('continue') ?? '0'));
  }

  watchRequests(): readonly URL[] {
    return this.requests.filter(isWatch);
  }

  /** Resolves when `isTrue`, looked at whenever something happens here. */
  when(isTrue: () => boolean): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting.push({ isTrue, resolve });
      this.#look();
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.reset();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #serve(request: IncomingMessage, response: ServerResponse): void {
    const url = new URL(request.url ?? '/', 'https://kubernetes');
    this.requests.push(url);
    this.headers.push(request.headers);
    response.on('error', () => undefined);
    const index = this.#faults.findIndex(({ when }) => when(url));
    if (index >= 0) this.#faults.splice(index, 1)[0]?.fault(request, response);
    else if (isWatch(url)) this.#watch(url, request, response);
    else this.#list(url, response);
    this.#look();
  }

  /** As a real server does it: pages of one token are of one snapshot, and have its version. */
  #list({ searchParams }: URL, response: ServerResponse): void {
    const limit = Number(searchParams.get('limit') ?? 0) || Infinity;
    const [from = 0, version = this.version] = (searchParams.get('continue') ?? '')
      .split('@')
      .filter(Boolean)
      .map(Number);
    const all = this.#snapshots.get(version) ?? [...this.objects.values()];
    const isLast = from + limit >= all.length;
    if (!isLast) this.#snapshots.set(version, all);
    const metadata = {
      resourceVersion: String(version),
      ...(isLast ? {} : { continue: `${from + limit}@${version}` }),
    };
    json(response, 200, { kind: 'ThingList', metadata, items: all.slice(from, from + limit) });
  }

  #watch(url: URL, request: IncomingMessage, response: ServerResponse): void {
    const from = Number(url.searchParams.get('resourceVersion'));
    if (from < this.oldest) {
      errorEvent(410, 'Expired')(request, response);
      return;
    }
    response.writeHead(200, { 'content-type': 'application/json' });
    response.flushHeaders();
    for (const { version, line } of this.#log) if (version > from) response.write(`${line}\n`);
    const watch = { query: url.searchParams, from, response };
    this.watches.add(watch);
    response.on('close', () => {
      this.watches.delete(watch);
      this.#look();
    });
  }

  #tell(type: string, object: FakeObject): void {
    const line = JSON.stringify({ type, object });
    this.#log.push({ version: this.version, line });
    this.#lineSince(line);
  }

  #lineSince(line: string): void {
    for (const { from, response } of this.watches) if (from < this.version) response.write(`${line}\n`);
  }

  #look(): void {
    const done = this.#waiting.filter(({ isTrue }) => isTrue());
    this.#waiting = this.#waiting.filter((one) => !done.includes(one));
    for (const { resolve } of done) resolve();
  }
}

/** The collection that the server has. */
export const PATH = '/api/v1/things';

export function isWatch(url: URL): boolean {
  return url.searchParams.get('watch') === 'true';
}

export function isList(url: URL): boolean {
  return url.pathname === PATH && !isWatch(url);
}

export function status(code: number, reason: string, more: object = {}): object {
  return { kind: 'Status', status: 'Failure', code, reason, message: `it is ${reason}`, ...more };
}

/** A fault: an answer of the server's that says no. */
export function refuse(code: number, reason: string, headers: Record<string, string> = {}): Fault {
  return (_, response) => json(response, code, status(code, reason), headers);
}

/** A fault: a watch that begins, and ends at once with the server's word that something is wrong. */
export function errorEvent(code: number, reason: string): Fault {
  return (_, response) => {
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(`${JSON.stringify({ type: 'ERROR', object: status(code, reason) })}\n`);
  };
}

export function json(
  response: ServerResponse,
  code: number,
  body: unknown,
  headers: Record<string, string> = {},
): void {
  response.writeHead(code, { 'content-type': 'application/json', ...headers });
  response.end(JSON.stringify(body));
}
