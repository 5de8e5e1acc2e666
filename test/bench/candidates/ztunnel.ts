/** A real ztunnel in each pod, which the person brings (PEER_ZTUNNEL); its certificates come from the test CA. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { rootFile, startCa } from '../../interop/ca.ts';
import { Ztunnel, requirePeer } from '../../interop/ztunnel.ts';
import type { LabPod } from '../../lab/kit/pod.ts';
import { directTargets, makeSite, waitThrough } from './candidate.ts';
import type { Candidate, StartOptions } from './candidate.ts';

/** @throws Error when there is no ztunnel. */
export async function startZtunnel(options: StartOptions): Promise<Candidate> {
  const peer = requirePeer();
  const { lab } = options;
  const site = await makeSite(options, 'ztunnel');
  const pods = [...site.clients, ...site.servers];
  const folder = join(lab.dir, 'ztunnel-ca');
  const ca = await lab.pod({ name: 'ca', namespace: 'bench-ca', node: 1 });
  const tokens = Object.fromEntries(pods.map((pod) => [tokenOf(pod), identityOf(pod)]));
  await startCa(ca.place(), { folder, address: ca.ip, tokens, alsoTrusts: [] });
  const binary = quiet(lab.dir, peer);
  const mesh = { pods, services: [], policies: [] };
  const start = async (pod: LabPod): Promise<number> => {
    const common = { binary, mesh, caAddress: ca.ip, caRoot: rootFile(folder), token: tokenOf(pod) };
    return (await Ztunnel.start(lab, pod, common)).process.pid;
  };
  const far = await Promise.all(site.servers.map(start));
  const near = await Promise.all(site.clients.map(start));
  const candidate: Candidate = {
    name: 'ztunnel',
    config:
      'ztunnel, dedicated, ZTUNNEL_WORKER_THREADS=1, no log; TLS 1.3, AES-256-GCM (its own choice), P-256',
    clients: site.clients,
    ...directTargets(site),
    near,
    far,
  };
  await waitThrough(candidate);
  return candidate;
}

const tokenOf = (pod: LabPod): string => `token-of-${pod.name}`;

const identityOf = (pod: LabPod): string =>
  `spiffe://cluster.local/ns/${pod.namespace}/sa/${pod.serviceAccount}`;

/** Its log of connections costs 50 µs each and is what no rival here writes: off. */
function quiet(folder: string, peer: string): string {
  const script = join(folder, 'quiet-ztunnel');
  writeFileSync(script, `#!/bin/sh\nexec env RUST_LOG=off '${peer}'\n`, { mode: 0o755 });
  return script;
}
