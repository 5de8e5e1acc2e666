/** Policies in the lab: objects as people write them, when they are in force, and who comes through. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { z } from 'zod';
import { until } from '../support/wait.ts';
import type { SendResult, Server } from './kit/apps.ts';
import type { LabDaemon, LogRecord } from './kit/daemon.ts';
import type { KubeObject, Labels } from './kit/objects.ts';
import type { LabPod } from './kit/pod.ts';
import type { Shop } from './shop.ts';

export const ROOT = 'istio-system';

export function authorizationPolicy(
  namespace: string,
  name: string,
  spec: unknown,
  annotations: Labels = {},
): KubeObject {
  return policyObject('AuthorizationPolicy', namespace, name, spec, annotations);
}

export function peerAuthentication(namespace: string, name: string, spec: unknown): KubeObject {
  return policyObject('PeerAuthentication', namespace, name, spec, {});
}

let generation = 0;

function policyObject(
  kind: string,
  namespace: string,
  name: string,
  spec: unknown,
  annotations: Labels,
): KubeObject {
  generation += 1;
  const creationTimestamp = new Date(1_700_000_000_000 + generation * 1_000).toISOString();
  return {
    apiVersion: 'security.istio.io/v1',
    kind,
    metadata: { name, namespace, annotations, creationTimestamp },
    spec,
  };
}

const Config = z.object({
  state: z.array(z.object({ kind: z.string(), key: z.string(), value: z.unknown().optional() })),
});

/** The policies of a lab: set as a whole, so that no test leaves one behind. */
export class Policies {
  readonly #shop: Pick<Shop, 'lab'>;
  readonly #daemons: readonly LabDaemon[];
  #now: readonly KubeObject[] = [];

  constructor(shop: Pick<Shop, 'lab'>, daemons: readonly LabDaemon[]) {
    this.#shop = shop;
    this.#daemons = daemons;
  }

  /** These and no others; resolves when every worker of every daemon goes by them. */
  async set(...objects: readonly KubeObject[]): Promise<void> {
    const { cluster } = this.#shop.lab;
    const stays = new Set(objects.map(keyOf));
    for (const object of this.#now) if (!stays.has(keyOf(object))) await cluster.remove(object);
    // One that is the same but for its spec must be seen to be new: each has another name or another spec.
    const before = await Promise.all(this.#daemons.map(policiesOf));
    for (const object of objects) await cluster.apply(object);
    const changed = objects.filter(
      (object) => JSON.stringify(this.#was(object)) !== JSON.stringify(object['spec']),
    );
    this.#now = objects;
    await Promise.all(
      this.#daemons.map((daemon, i) => this.#inForce(daemon, changed, before[i] ?? new Map())),
    );
  }

  #was(object: KubeObject): unknown {
    return this.#now.find((one) => keyOf(one) === keyOf(object))?.['spec'];
  }

  async #inForce(
    daemon: LabDaemon,
    changed: readonly KubeObject[],
    before: ReadonlyMap<string, string>,
  ): Promise<void> {
    const wanted = this.#now.map(keyOf).sort();
    const isThere = async (): Promise<boolean> => {
      const now = await policiesOf(daemon);
      const isNew = changed.every((object) => now.get(keyOf(object)) !== before.get(keyOf(object)));
      return isNew && JSON.stringify([...now.keys()].sort()) === JSON.stringify(wanted);
    };
    await until(`the policies ${wanted.join(', ')}`, isThere, { detail: () => daemon.process.tail() });
    // Every worker answers this, on the way on which the policies came before.
    await daemon.admin('/connections');
  }
}

function keyOf({ kind, metadata }: KubeObject): string {
  return `${kind === 'PeerAuthentication' ? 'peer-authentication' : 'policy'} ${metadata.namespace ?? ''}/${metadata.name}`;
}

async function policiesOf(daemon: LabDaemon): Promise<ReadonlyMap<string, string>> {
  const { state } = Config.parse(await daemon.admin('/config'));
  const policies = state.filter(({ kind }) => kind === 'policy' || kind === 'peer-authentication');
  return new Map(policies.map(({ kind, key, value }) => [`${kind} ${key}`, JSON.stringify(value)]));
}

/** One connection with 64 bytes of `first`, or random ones. */
export function attempt(client: LabPod, to: LabPod, port: number, first?: Uint8Array): Promise<SendResult> {
  return client.send(to.ip, port, { first: first ?? randomBytes(64), timeoutMs: 20_000 });
}

/** Whether a connection came through whole: then the app counted all of its bytes; else it must have counted none. */
export async function comes(client: LabPod, to: LabPod, sink: Server, first?: Uint8Array): Promise<boolean> {
  const payload = first ?? randomBytes(64);
  const before = (await sink.stats()).received;
  const result = await attempt(client, to, sink.port, payload);
  const isWhole = result.error === '' && result.end === 'eof';
  const arrived = isWhole ? before + payload.length : before;
  if (isWhole) await until('the payload', async () => (await sink.stats()).received >= arrived);
  assert.equal((await sink.stats()).received, arrived, JSON.stringify(result));
  return isWhole;
}

/** The record of the first inbound connection to `port` that `daemon` writes from line `from` on. */
export function inboundTo(
  daemon: LabDaemon,
  port: number,
  from: number,
  said: Readonly<Record<string, string>> = {},
): Promise<LogRecord> {
  return daemon.waitForAccess(
    `the inbound record of a connection to port ${port}: ${JSON.stringify(said)}`,
    (record) =>
      record['direction'] === 'inbound' &&
      String(record['dst.addr']).endsWith(`:${port}`) &&
      Object.entries(said).every(([field, text]) => record[field] === text),
    { from, timeoutMs: 30_000 },
  );
}

/** How often `culvert_policy_decisions_total` has counted. */
export async function decisions(daemon: LabDaemon, policy: string, verdict: string): Promise<number> {
  const line = `culvert_policy_decisions_total{policy="${policy}",verdict="${verdict}"}`;
  const found = (await daemon.metrics()).split('\n').find((one) => one.startsWith(line));
  return Number(found?.slice(line.length) ?? 0);
}
