/** What kustomize makes of manifests/, as the tests look at it. */
import path from 'node:path';
import { parseAllDocuments } from 'yaml';
import { must } from '../support/run.ts';
import { multi } from './kit/multi.ts';

const MANIFESTS = path.join(import.meta.dirname, '../../manifests');
/** Every folder that people apply to get Culvert. */
export const ROOTS = [
  'base',
  'overlays/dev',
  'overlays/kind',
  'overlays/cert-manager',
  'overlays/startup-taint',
] as const;
/** To be applied to a cluster that has it. */
export const BENCH = 'overlays/bench';
/** The policy kinds, for clusters without Istio. */
export const POLICY_CRDS = 'policy-crds';
export type Root = (typeof ROOTS)[number] | typeof BENCH | typeof POLICY_CRDS;

export interface Manifest {
  readonly kind: string;
  readonly name: string;
  readonly object: unknown;
}

/** Path of a root, for kubectl -k; or of a file in manifests/. */
export function pathOf(file: Root | 'README.md'): string {
  return path.join(MANIFESTS, file);
}

/** The objects that `kubectl kustomize` prints for a root. */
export const render = (root: Root): Promise<readonly Manifest[]> => renderFolder(pathOf(root));

/** The same for a folder of somebody's own. */
export async function renderFolder(folder: string): Promise<readonly Manifest[]> {
  const printed = await must([await multi(), 'kubectl', 'kustomize', folder]);
  return parseAllDocuments(printed).map((document) => {
    const object: unknown = document.toJS();
    return { kind: text(object, 'kind'), name: text(object, 'metadata', 'name'), object };
  });
}

/** What is at a path, or undefined. */
export function at(value: unknown, ...keys: readonly (string | number)[]): unknown {
  return keys.reduce<unknown>((here, key) => Reflect.get(Object(here), key), value);
}

/** The text at a path. @throws Error when there is another thing. */
export function text(value: unknown, ...keys: readonly (string | number)[]): string {
  const found = at(value, ...keys);
  if (typeof found === 'string') return found;
  throw new Error(`${keys.join('.')} is no text: ${JSON.stringify(found)}`);
}

/** The list at a path; empty when there is none. */
export function list(value: unknown, ...keys: readonly (string | number)[]): readonly unknown[] {
  const found = at(value, ...keys);
  return Array.isArray(found) ? found : [];
}

/** The texts of a list at a path. */
export function texts(value: unknown, ...keys: readonly (string | number)[]): readonly string[] {
  return list(value, ...keys).map((one) => text(one));
}

/** The texts of a map at a path, such as labels. */
export function entries(value: unknown, ...keys: readonly (string | number)[]): Record<string, string> {
  const found = at(value, ...keys);
  if (typeof found !== 'object' || found === null) return {};
  return Object.fromEntries(Object.keys(found).map((key) => [key, text(found, key)]));
}

/** The one object of that kind and name. @throws Error */
export function find(objects: readonly Manifest[], kind: string, name: string): unknown {
  const found = objects.filter((one) => one.kind === kind && one.name === name);
  if (found.length !== 1) throw new Error(`${found.length} objects ${kind} ${name}`);
  return found[0]?.object;
}
