/** Names of the kubelet's cgroups in both of its drivers, and the machine's cgroup v2 mount. */
import { readFileSync } from 'node:fs';

export type CgroupDriver = 'systemd' | 'cgroupfs';
export type Qos = 'guaranteed' | 'burstable' | 'besteffort';

/** Where cgroup v2 is mounted on this machine. @throws Error when it is not. */
export function cgroup2Mount(): string {
  for (const line of readFileSync('/proc/mounts', 'utf8').split('\n')) {
    const [, at, type] = line.split(' ');
    if (type === 'cgroup2' && at !== undefined) return at;
  }
  throw new Error('cgroup v2 is not mounted; mount -t cgroup2 none /sys/fs/cgroup (or …/unified)');
}

/** The cgroups that a kubelet makes at its start, below the node's root. Parents first. */
export function kubepodsPaths(driver: CgroupDriver): readonly string[] {
  const root = driver === 'systemd' ? 'kubepods.slice' : 'kubepods';
  return [root, ...(['burstable', 'besteffort'] as const).map((qos) => qosPath(driver, qos))];
}

function qosPath(driver: CgroupDriver, qos: Qos): string {
  const root = driver === 'systemd' ? 'kubepods.slice' : 'kubepods';
  if (qos === 'guaranteed') return root;
  return driver === 'systemd' ? `${root}/kubepods-${qos}.slice` : `${root}/${qos}`;
}

/** A pod's cgroup below the node's root. */
export function podPath(driver: CgroupDriver, qos: Qos, uid: string): string {
  if (driver === 'cgroupfs') return `${qosPath(driver, qos)}/pod${uid}`;
  const prefix = qos === 'guaranteed' ? 'kubepods' : `kubepods-${qos}`;
  return `${qosPath(driver, qos)}/${prefix}-pod${uid.replaceAll('-', '_')}.slice`;
}

/** A container's cgroup below its pod's. */
export function containerPath(driver: CgroupDriver, id: string): string {
  return driver === 'systemd' ? `cri-containerd-${id}.scope` : id;
}
