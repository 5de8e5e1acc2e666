/** Fields that several kinds share, each told when it can't be used. */
import { parseIp } from '../mesh/ids.ts';
import type { Ip } from '../mesh/ids.ts';
import type { MeshLabel } from '../mesh/model.ts';
import { canonicalCidr } from '../mesh/ranges.ts';

export type JsonPath = readonly (string | number)[];

/** Something wrong in an object, and where. */
export interface ObjectProblem {
  readonly path: JsonPath;
  readonly reason: string;
}

/** Collects what is wrong with an object that is still usable. */
export type Note = (path: JsonPath, reason: string) => void;

/** The label `culvert.dev/mesh`; a value that is neither word counts as none, and is told. */
export function meshLabel(labels: Readonly<Record<string, string>>, note: Note): MeshLabel | undefined {
  const value = labels['culvert.dev/mesh'];
  if (value === undefined || value === 'enabled' || value === 'disabled') return value;
  note(
    ['metadata', 'labels', 'culvert.dev/mesh'],
    `"${value}" is neither enabled nor disabled: the label has no effect`,
  );
  return undefined;
}

/** The address in `text`, or nothing, told. */
export function ipAt(text: string, path: JsonPath, note: Note): readonly Ip[] {
  const ip = parseIp(text);
  if (ip !== undefined) return [ip];
  note(path, `"${text}" is no IP address: left out`);
  return [];
}

/** The range in `text`, or nothing, told. */
export function cidrAt(text: string, path: JsonPath, note: Note): readonly string[] {
  const cidr = canonicalCidr(text);
  if (cidr !== undefined) return [cidr];
  note(path, `"${text.slice(0, 64)}" is no range such as 10.0.0.0/8: left out`);
  return [];
}
