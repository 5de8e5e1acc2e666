import assert from 'node:assert/strict';
import { mkdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, it } from 'node:test';
import { KubeletFinder } from '../../daemon/capture/kubelet.ts';
import type { TcpSocket } from '../../native/hot/records.ts';
import { ip, port } from '../mesh/world.ts';
import { tempDir } from '../support/tmp.ts';

const PORT = port(10_250);

/** Cgroups as folders, and listeners in the host's namespace. */
class Host {
  readonly root: string;
  readonly finder: KubeletFinder;
  listeners: TcpSocket[] = [];
  nowMs = 0;
  searches = 0;

  constructor(root: string) {
    this.root = root;
    const tcpSockets = (): { sockets: TcpSocket[]; truncated: boolean } => {
      this.searches += 1;
      return { sockets: this.listeners, truncated: false };
    };
    this.finder = new KubeletFinder({
      hot: { tcpSockets },
      hostNetnsFd: 3,
      cgroupRoot: root,
      kubepods: path.join(root, 'kubepods.slice'),
      now: () => this.nowMs,
    });
  }

  /** Where it is found now; undefined: nowhere, or where it was. */
  look(on = PORT): string | undefined {
    let found: string | undefined;
    this.finder.look(on, (kubelet) => (found = kubelet.path));
    return found;
  }

  /** A process of the cgroup `name` listens. */
  listen(name: string, source = '0.0.0.0', sourcePort = 10_250): string {
    const directory = path.join(this.root, name);
    mkdirSync(directory, { recursive: true });
    writeFileSync(path.join(directory, 'cgroup.procs'), '42\n');
    this.listeners.push({
      family: 4,
      state: 'LISTEN',
      source: ip(source),
      sourcePort,
      destination: ip('0.0.0.0'),
      destinationPort: 0,
      cookie: 1n,
      cgroupId: statSync(directory, { bigint: true }).ino,
      inode: 1,
      ifindex: 0,
    });
    return directory;
  }
}

describe('the kubelet', () => {
  it('is found once, and its sockets are listed no more while it runs', async () => {
    await using folder = await tempDir('kubelet');
    const host = new Host(folder.path);
    host.listen('system.slice/sshd.service', '0.0.0.0', 22);
    const kubelet = host.listen('system.slice/kubelet.service');
    assert.equal(host.look(), kubelet);
    for (host.nowMs = 0; host.nowMs < 100_000; host.nowMs += 1_000) assert.equal(host.look(), undefined);
    assert.equal(host.searches, 1);
  });

  it('is no pod in the host’s network, and rather who listens on every address', async () => {
    await using folder = await tempDir('kubelet');
    const host = new Host(folder.path);
    host.listen('kubepods.slice/pod1/app');
    assert.equal(host.look(), undefined);
    host.listen('system.slice/other.service', '127.0.0.1');
    const kubelet = host.listen('kubelet.slice/kubelet.service');
    host.nowMs = 10_000;
    assert.equal(host.look(), kubelet);
  });

  it('is found again in another cgroup at once after a restart, and on another port', async () => {
    await using folder = await tempDir('kubelet');
    const host = new Host(folder.path);
    const first = host.listen('system.slice/kubelet.service');
    host.look();
    rmSync(first, { recursive: true });
    host.listeners = [];
    const second = host.listen('kubelet.slice/kubelet.service');
    assert.equal(host.look(), second);
    host.listeners = [];
    const third = host.listen('k3s.service', '0.0.0.0', 10_251);
    host.nowMs = 10_000;
    assert.equal(host.look(port(10_251)), third);
  });

  it('is found again when nothing could be made of it', async () => {
    await using folder = await tempDir('kubelet');
    const host = new Host(folder.path);
    const kubelet = host.listen('system.slice/kubelet.service');
    assert.throws(() => {
      host.finder.look(PORT, () => {
        throw new Error('no room');
      });
    });
    host.nowMs = 1_000;
    assert.equal(host.look(), kubelet);
  });

  it('is looked for less and less often while there is none', async () => {
    await using folder = await tempDir('kubelet');
    const host = new Host(folder.path);
    for (host.nowMs = 0; host.nowMs < 60_000; host.nowMs += 1_000) host.look();
    assert.ok(host.searches <= 14, `${host.searches} searches in a minute`);
    const kubelet = host.listen('system.slice/kubelet.service');
    host.nowMs += 5_000;
    assert.equal(host.look(), kubelet);
  });
});
