/** What every list and every watch event of the API has, whatever its objects mean. By hand: once per object. */
import { KubeError } from './seams.ts';
import type { ListPage, WatchEvent } from './seams.ts';

/** The status of an answer that says: this version is too old to watch from, or to list on from. */
export const GONE = 410;

/** @throws TypeError when it is nonsense; KubeError when the server says that something is wrong. */
export function parseEvent(event: unknown): WatchEvent {
  const type = field(event, 'type');
  const object = field(event, 'object');
  switch (type) {
    case 'ADDED':
    case 'MODIFIED':
    case 'DELETED':
    case 'BOOKMARK':
      return { type, object, version: textOr(field(field(object, 'metadata'), 'resourceVersion')) };
    case 'ERROR':
      throw statusError(object);
    default:
      throw new TypeError(`a watch event of type ${String(type).slice(0, 40)}`);
  }
}

/** @throws TypeError when it is no list. */
export function parsePage(answer: unknown): ListPage {
  const items = field(answer, 'items') ?? [];
  const metadata = field(answer, 'metadata');
  const version = textOr(field(metadata, 'resourceVersion'));
  if (!Array.isArray(items) || version === undefined) throw new TypeError('the answer is no list');
  return { items, version, next: textOr(field(metadata, 'continue')) ?? '' };
}

/** `namespace/name`, or `name` of cluster-scoped objects. @throws TypeError when it has no name. */
export function keyOf(object: unknown): string {
  const metadata = field(object, 'metadata');
  const name = textOr(field(metadata, 'name'));
  const namespace = textOr(field(metadata, 'namespace'));
  if (name === undefined) throw new TypeError('an object has no name');
  return namespace === undefined ? name : `${namespace}/${name}`;
}

function statusError(status: unknown): KubeError {
  const code = field(status, 'code');
  const reason = textOr(field(status, 'reason')) ?? 'Unknown';
  const message = textOr(field(status, 'message')) ?? 'the server gave no reason';
  return new KubeError(
    typeof code === 'number' ? code : 0,
    reason,
    `the watch ended: ${message.slice(0, 500)}`,
  );
}

function field(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined;
}

function textOr(value: unknown): string | undefined {
  return typeof value === 'string' && value !== '' ? value : undefined;
}
