/** HAProxy on both sides, mutual TLS between them: one process in each pod, the client dials the one beside it. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { LabPod } from '../../lab/kit/pod.ts';
import { must } from '../../support/run.ts';
import { issue, makeCa } from '../../support/pki.ts';
import type { TestCa } from '../../support/pki.ts';
import { ECHO_PORT, SINK_PORT } from '../load.ts';
import type { Target } from '../load.ts';
import { makeSite, waitThrough } from './candidate.ts';
import type { Candidate, Site, StartOptions } from './candidate.ts';

const LOOPBACK = '127.0.0.1';
/** Of its own client side, one pair of ports for each server pod; above them nothing else listens. */
const FIRST_NEAR_PORT = 20_000;
const FAR_ECHO_PORT = 15_443;
const FAR_SINK_PORT = 15_444;
const SSL = 'ssl-min-ver TLSv1.3 ciphersuites TLS_AES_128_GCM_SHA256 verify required';

/** @throws Error when haproxy is not installed. */
export async function startHaproxy(options: StartOptions): Promise<Candidate> {
  const version = /\d+\.\d+\.\d+/.exec(await must(['haproxy', '-v']))?.[0] ?? '?';
  const site = await makeSite(options, 'haproxy');
  const folder = join(options.lab.dir, 'haproxy');
  mkdirSync(folder, { recursive: true });
  const ca = makeCa();
  writeFileSync(join(folder, 'ca.pem'), ca.certPem);
  const far = await Promise.all(site.servers.map((pod) => start(folder, ca, pod, farSide(folder, pod))));
  const nearText = (pod: LabPod): string => nearSide(folder, pod, site);
  const near = await Promise.all(site.clients.map((pod) => start(folder, ca, pod, nearText(pod))));
  const nearPorts = (of: 0 | 1): Target[] =>
    site.servers.map((_, index) => ({ ip: LOOPBACK, port: FIRST_NEAR_PORT + 2 * index + of }));
  const candidate: Candidate = {
    name: 'haproxy',
    config: `HAProxy ${version}, nbthread 1, mode tcp; TLS 1.3, AES-128-GCM, P-256, certificates on both sides, sessions resumed as by default; no log`,
    clients: site.clients,
    echo: nearPorts(0),
    sink: nearPorts(1),
    near,
    far,
  };
  await waitThrough(candidate);
  return candidate;
}

async function start(folder: string, ca: TestCa, pod: LabPod, text: string): Promise<number> {
  const issued = issue(ca, `spiffe://cluster.local/ns/${pod.namespace}/sa/${pod.serviceAccount}`);
  writeFileSync(join(folder, `${pod.name}.pem`), issued.chainPem + issued.keyPem);
  const file = join(folder, `${pod.name}.cfg`);
  writeFileSync(file, text);
  const logFile = join(folder, `${pod.name}.log`);
  return (await pod.spawn(['haproxy', '-db', '-f', file], { logFile })).pid;
}

const HEAD = `global
  nbthread 1
defaults
  mode tcp
  timeout connect 10s
  timeout client 10m
  timeout server 10m
`;

function tls(folder: string, pod: LabPod): string {
  return `ssl crt ${folder}/${pod.name}.pem ca-file ${folder}/ca.pem ${SSL}`;
}

function farSide(folder: string, pod: LabPod): string {
  const listen = (name: string, from: number, to: number): string =>
    `listen ${name}\n  bind ${pod.ip}:${from} ${tls(folder, pod)}\n  server app ${LOOPBACK}:${to}\n`;
  return `${HEAD}${listen('echo', FAR_ECHO_PORT, ECHO_PORT)}${listen('sink', FAR_SINK_PORT, SINK_PORT)}`;
}

function nearSide(folder: string, pod: LabPod, site: Site): string {
  const listen = (name: string, port: number, to: string): string =>
    `listen ${name}\n  bind ${LOOPBACK}:${port}\n  server far ${to} ${tls(folder, pod)}\n`;
  const each = site.servers.map((server, index) => {
    const port = FIRST_NEAR_PORT + 2 * index;
    return (
      listen(`echo-${index}`, port, `${server.ip}:${FAR_ECHO_PORT}`) +
      listen(`sink-${index}`, port + 1, `${server.ip}:${FAR_SINK_PORT}`)
    );
  });
  return HEAD + each.join('');
}
