/** What an API server sends in protobuf, written with fields of our own choice: an API of canned answers. */
import protobuf from 'protobufjs';
import type { ApiRequest, ApiStream, KubeApi } from '../../daemon/kube/seams.ts';

const root = protobuf.parse(`
  syntax = "proto2";
  message Time { optional int64 seconds = 1; optional int32 nanos = 2; }
  message ManagedFieldsEntry { optional string manager = 1; }
  message Meta {
    optional string name = 1; optional string generateName = 2; optional string namespace = 3; optional string uid = 5;
    optional string resourceVersion = 6; optional int64 generation = 7; optional Time creationTimestamp = 8;
    map<string, string> labels = 11; map<string, string> annotations = 12; repeated ManagedFieldsEntry managedFields = 17;
  }
  message Spec { repeated string finalizers = 1; optional string nodeName = 10; }
  message Thing { optional Meta metadata = 1; optional Spec spec = 2; }
  message ListMeta { optional string selfLink = 1; optional string resourceVersion = 2; optional string continue = 3; }
  message List { optional ListMeta metadata = 1; repeated Thing items = 2; }
  message TypeMeta { optional string apiVersion = 1; optional string kind = 2; }
  message Unknown { optional TypeMeta typeMeta = 1; optional bytes raw = 2; optional string contentType = 4; }
  message Raw { optional bytes raw = 1; }
  message Event { optional string type = 1; optional Raw object = 2; }
  message Status { optional string status = 2; optional string message = 3; optional string reason = 4; optional int32 code = 6; }
`).root;

/** An object with these fields, in the envelope. */
export function encoded(message: 'Thing' | 'List' | 'Status', value: object): Buffer {
  const type = root.lookupType(message);
  const raw = type.encode(type.fromObject(value)).finish();
  const unknown = root.lookupType('Unknown');
  const typeMeta = { apiVersion: 'v1', kind: message };
  return Buffer.concat([
    Buffer.from('k8s\0'),
    unknown.encode(unknown.fromObject({ typeMeta, raw })).finish(),
  ]);
}

/** One frame of a watch. */
export function frame(type: string, object: Buffer): Buffer {
  const event = root.lookupType('Event');
  const bytes = event.encode(event.fromObject({ type, object: { raw: object } })).finish();
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length);
  return Buffer.concat([length, bytes]);
}

/** Answers lists with `lists` by path, and watches with what `send` is given. */
export class ProtobufApi implements KubeApi {
  readonly lists = new Map<string, Buffer>();
  readonly #watches = new Map<string, (bytes: Buffer) => void>();

  request(): Promise<unknown> {
    return Promise.reject(new Error('there is nothing in JSON here'));
  }

  stream({ path, query, signal }: ApiRequest): Promise<ApiStream> {
    const list = this.lists.get(path) ?? encoded('List', { metadata: { resourceVersion: '1' } });
    const bytes = query?.['watch'] === 'true' ? this.#watch(path, signal) : once(list);
    return Promise.resolve({ [Symbol.asyncIterator]: () => bytes, [Symbol.dispose]: () => undefined });
  }

  /** Bytes to whoever watches `path`. */
  send(path: string, bytes: Buffer): void {
    this.#watches.get(path)?.(bytes);
  }

  isWatched(path: string): boolean {
    return this.#watches.has(path);
  }

  async *#watch(path: string, signal: AbortSignal | undefined): AsyncGenerator<Uint8Array, void, undefined> {
    const queue: Buffer[] = [];
    for (;;) {
      const { promise, resolve } = Promise.withResolvers<void>();
      signal?.addEventListener('abort', () => resolve(), { once: true });
      this.#watches.set(path, (bytes) => {
        queue.push(bytes);
        resolve();
      });
      await promise;
      if (signal?.aborted === true) return;
      yield* queue.splice(0);
    }
  }
}

async function* once(bytes: Buffer): AsyncGenerator<Uint8Array, void, undefined> {
  await Promise.resolve();
  yield bytes;
}
