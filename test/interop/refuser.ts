/**
 * Our HBONE server, without a daemon around it, that refuses every CONNECT: port 1000 + S is answered with status S.
 * For refusals that the daemon has no cause for yet (401 comes with policies). As a program: `refuser.ts FOLDER ID`.
 */
import { createServer } from 'node:net';
import { createSecureContext } from 'node:tls';
import { parseConfig } from '../../daemon/config.ts';
import { LocalCa } from '../../daemon/identity/sources/local.ts';
import { SvidVerifier } from '../../daemon/identity/svid.ts';
import { parsePodUid, parseSpiffeId, parseTrustDomain } from '../../daemon/mesh/ids.ts';
import { createTunnelServer } from '../../daemon/proxy/hbone/server.ts';
import type { LabPod } from '../lab/kit/pod.ts';
import type { LabProcess } from '../lab/kit/process.ts';
import { MESH_TLS } from '../support/pki.ts';

const HBONE_PORT = 15_008;
export const REFUSER_BASE = 1_000;

/** Starts it in `pod`, which must not be captured. */
export async function startRefuser(pod: LabPod, ca: { readonly folder: string }): Promise<LabProcess> {
  const id = `spiffe://cluster.local/ns/${pod.namespace}/sa/${pod.serviceAccount}`;
  const started = await pod.spawn([process.execPath, import.meta.filename, ca.folder, id]);
  await started.waitForLine('to listen', (line) => line === 'listening' || undefined);
  return started;
}

async function serve(folder: string, idText: string): Promise<void> {
  const trustDomain = parseTrustDomain('cluster.local');
  const id = parseSpiffeId(idText);
  const podUid = parsePodUid('11111111-1111-1111-1111-111111111111');
  if (trustDomain === undefined || id === undefined || podUid === undefined) throw new Error(idText);
  const clock = { nowMs: () => Date.now() };
  const ca = await LocalCa.open({ folder, trustDomain, clock });
  const lifetimeMs = 3_600_000;
  const issued = await ca.issue(id, lifetimeMs, AbortSignal.timeout(10_000));
  const { keyPem: key, chainPem: cert, rootsPem } = issued;
  const context = createSecureContext({ ...MESH_TLS, key, cert, ca: rootsPem });
  const identity = { id, context, notAfterMs: Date.now() + lifetimeMs, generation: 1 };
  const verifier = new SvidVerifier(trustDomain);
  const config = parseConfig({ nodeName: 'refuser' }, {});
  const tunnels = createTunnelServer(config, {
    verifyPeer: (leaf) => verifier.verify(leaf, Date.now()),
    trust: () => undefined,
  });
  const server = createServer((socket) => {
    tunnels.serve(socket, {
      podUid,
      identity,
      onConnect: (connect) => connect.refuse(connect.target.port - REFUSER_BASE),
      onRefused: (refusal) => console.log(JSON.stringify(refusal)),
    });
  });
  server.listen(HBONE_PORT, '::', () => console.log('listening'));
}

if (import.meta.main) await serve(process.argv[2] ?? '', process.argv[3] ?? '');
