/** Destinations that a pod asked to leave out of the mesh, in the LPM trie. */
import { MeshError } from '../errors.ts';
import { parseIp } from '../mesh/ids.ts';
import type { BpfMap } from './bpf-map.ts';
import type { Exclusion } from './maps.ts';

/** IPv4 prefixes count the 96 bits of ::ffff:0:0 too. */
const V4_OFFSET = 96;

/** Makes `cidrs` (`ip/length`) the pod's exclusions; those that stay are never gone in between. @throws BPF_MAP_FAILED */
export function replaceExclusions(
  map: BpfMap<Exclusion, number>,
  netns: bigint,
  cidrs: readonly string[],
): void {
  const wanted = cidrs.map((cidr) => exclusionOf(netns, cidr));
  const before = map.keys().filter((key) => key.netns === netns);
  for (const exclusion of wanted) map.set(exclusion, 1);
  const keep = new Set(wanted.map(nameOf));
  for (const key of before) if (!keep.has(nameOf(key))) map.delete(key);
}

function nameOf({ ip, length }: Exclusion): string {
  return `${ip}/${length}`;
}

function exclusionOf(netns: bigint, cidr: string): Exclusion {
  const [address, bits, ...rest] = cidr.split('/');
  const ip = parseIp(address ?? '');
  const length = /^\d+$/.test(bits ?? '') ? Number(bits) : Number.NaN;
  const isV4 = ip !== undefined && !ip.includes(':');
  if (ip === undefined || rest.length > 0 || !(length <= (isV4 ? 32 : 128)))
    throw new MeshError('BPF_MAP_FAILED', `"${cidr}" is no address range in the form ip/length`);
  return { netns, ip, length: isV4 ? length + V4_OFFSET : length };
}
