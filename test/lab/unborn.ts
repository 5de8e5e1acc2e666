/** A pod between the kubelet's first step and its second: its cgroup is there, its sandbox is not. */
import { randomUUID } from 'node:crypto';
import { mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { until } from '../support/wait.ts';
import { podPath } from './kit/cgroups.ts';
import type { Place } from './kit/process.ts';
import type { Shop } from './shop.ts';

export interface Unborn {
  readonly uid: string;
  /** In its cgroup, and still in the node's network. */
  readonly place: Place;
  remove(): Promise<void>;
}

/** Makes one on node 2, of the server's namespace and service account. */
export async function makeUnborn({ lab, server }: Shop, name: string): Promise<Unborn> {
  const { node } = server;
  const uid = randomUUID();
  const cgroup = join(node.cgroup, podPath(node.cgroupDriver, 'burstable', uid));
  const like = server.object();
  const object = { ...like, metadata: { ...like.metadata, name, uid }, status: { phase: 'Pending' } };
  await lab.cluster.apply(object);
  mkdirSync(join(cgroup, 'early'), { recursive: true });
  const remove = async (): Promise<void> => {
    writeFileSync(join(cgroup, 'cgroup.kill'), '1');
    await until('its cgroup to be empty', () =>
      readFileSync(join(cgroup, 'cgroup.events'), 'utf8').includes('populated 0'),
    );
    rmdirSync(join(cgroup, 'early'));
    rmdirSync(cgroup);
    await lab.cluster.remove(object);
  };
  return { uid, place: { ...node.place(), cgroup: join(cgroup, 'early') }, remove };
}
