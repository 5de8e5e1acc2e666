/**
 * Pins of daemons whose maps are laid out in another way, found below the same bpffs after an upgrade or a downgrade.
 * Of them only names of pins and keys are used, which every layout has alike: pods by UID, cgroups and namespaces by
 * their 8-byte numbers.
 */
import type { PodUid } from '../mesh/ids.ts';
import { parsePodUid } from '../mesh/ids.ts';
import { BpfMap } from './bpf-map.ts';
import { closeFd, openPin } from './libbpf.ts';
import { LAYOUT, u64, u8 } from './maps.ts';
import { Pins, pinnedLayouts } from './pins.ts';

/** Layout numbers, but ours, that have pins. */
export function otherLayouts(bpffs: string): number[] {
  return pinnedLayouts(bpffs).filter((layout) => layout !== LAYOUT);
}

/** Pods that a daemon of another layout enrolled: their traffic is closed by its pins until we hold them. */
export function podsElsewhere(bpffs: string): PodUid[] {
  return otherLayouts(bpffs).flatMap((layout) => podUids(new Pins(bpffs, layout).list('netns')));
}

/** The names that are UIDs of pods. */
export function podUids(names: readonly string[]): PodUid[] {
  return names.map((name) => parsePodUid(name)).filter((uid) => uid !== undefined);
}

/**
 * Makes `own` exempt in every other layout and gives who is exempt there: while both stand, each daemon's connections
 * pass the other's programs too. @throws MeshError PIN_FAILED, BPF_MAP_FAILED
 */
export function shareExemptions(bpffs: string, own: bigint): bigint[] {
  const found: bigint[] = [];
  for (const layout of otherLayouts(bpffs))
    withKeys(bpffs, layout, 'exempt_cgroups', (map) => {
      found.push(...map.keys());
      map.set(own, 1);
    });
  return found;
}

/**
 * Removes what any daemon of any layout left below `bpffs`: capture ends first, then links and maps go.
 * @returns the folders that were removed. @throws MeshError PIN_FAILED, BPF_ATTACH_FAILED, BPF_MAP_FAILED
 */
export function removePins(bpffs: string): string[] {
  return pinnedLayouts(bpffs).map((layout) => removeLayout(bpffs, layout));
}

/** The same but for our own layout: once this daemon holds the pods. */
export function removeOtherLayouts(bpffs: string): string[] {
  return otherLayouts(bpffs).map((layout) => removeLayout(bpffs, layout));
}

function removeLayout(bpffs: string, layout: number): string {
  const pins = new Pins(bpffs, layout);
  for (const name of ['pods', 'pod_cgroups'])
    withKeys(bpffs, layout, name, (map) => {
      for (const key of map.keys()) map.delete(key);
    });
  pins.removeAll();
  return pins.directory;
}

/** Values are written as one byte (exempt_cgroups) and never read. */
function withKeys(
  bpffs: string,
  layout: number,
  name: string,
  use: (map: BpfMap<bigint, number>) => void,
): void {
  const fd = openPin(new Pins(bpffs, layout).path('maps', name));
  if (fd === undefined) return;
  try {
    use(new BpfMap(name, fd, u64, u8));
  } finally {
    closeFd(fd);
  }
}
