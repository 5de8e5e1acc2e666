/** A real ztunnel in a pod of the lab, as it runs dedicated to one pod, without istiod (PEERS.md). */
import { accessSync, constants, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { z } from 'zod';
import { must } from '../support/run.ts';
import { until } from '../support/wait.ts';
import { httpIn } from '../lab/kit/connect.ts';
import { LabProcess } from '../lab/kit/process.ts';
import type { Lab } from '../lab/kit/lab.ts';
import type { LabPod } from '../lab/kit/pod.ts';
import { CA_PORT } from './ca.ts';
import { meshYaml } from './mesh.ts';
import type { Mesh } from './mesh.ts';

/** The mark of its own sockets, which the redirect must not catch. */
const MARK = 0x539;
const OUTBOUND_PORT = 15_001;
const READINESS_PORT = 15_021;

/** A line of its log. */
export type ZtunnelRecord = Readonly<Record<string, unknown>>;
const Record_ = z.record(z.string(), z.unknown());

export interface ZtunnelOptions {
  readonly binary: string;
  readonly mesh: Mesh;
  readonly caAddress: string;
  /** PEM file: who signs the CA's own certificate. */
  readonly caRoot: string;
  readonly token: string;
}

/** The binary that the person brought. @throws Error naming what is missing and how to give it. */
export function requirePeer(): string {
  const path = process.env['PEER_ZTUNNEL'] ?? '';
  if (path === '')
    throw new Error(
      'PEER_ZTUNNEL is not set: bring a ztunnel binary and run make interop PEER_ZTUNNEL=/path/to/ztunnel',
    );
  try {
    accessSync(path, constants.X_OK);
  } catch {
    throw new Error(`PEER_ZTUNNEL=${path}: there is no program that can be run`);
  }
  return path;
}

/** Which ztunnel it is: its own word, and the file's SHA-256. */
export async function peerVersion(binary: string): Promise<string> {
  const said = (await must([binary, 'version'])).trim().replace(/\s+/g, ' ');
  return `${said}\nsha256 ${createHash('sha256').update(readFileSync(binary)).digest('hex')}`;
}

export class Ztunnel implements AsyncDisposable {
  readonly pod: LabPod;
  readonly process: LabProcess;

  /** Starts one in `pod`, whose outbound TCP is its from now on. Resolves when it is ready. */
  static async start(lab: Lab, pod: LabPod, options: ZtunnelOptions): Promise<Ztunnel> {
    await redirectOutbound(pod, options.caAddress);
    const folder = join(lab.dir, `ztunnel-${pod.name}`);
    mkdirSync(folder, { recursive: true });
    const meshFile = join(folder, 'mesh.yaml');
    writeFileSync(meshFile, meshYaml(options.mesh));
    const started = await pod.spawn([options.binary], {
      cwd: folder,
      env: environment(pod, options, meshFile),
      logFile: join(lab.dir, 'logs', `ztunnel-${pod.name}.log`),
    });
    const ztunnel = new Ztunnel(pod, started);
    await ztunnel.#ready();
    return ztunnel;
  }

  private constructor(pod: LabPod, process: LabProcess) {
    this.pod = pod;
    this.process = process;
  }

  async #ready(): Promise<void> {
    const target = { host: '127.0.0.1', port: READINESS_PORT, path: '/healthz/ready' };
    const isReady = async (): Promise<boolean> => {
      if (this.process.exit !== undefined) throw new Error(`ztunnel ended:\n${this.process.tail(20)}`);
      const answer = await httpIn(this.pod.place(), target).catch(() => undefined);
      return answer?.status === 200;
    };
    const detail = (): string => this.process.tail(20);
    await until(`the ztunnel of ${this.pod.name} to be ready`, isReady, { detail, everyMs: 50 });
  }

  /** How many lines it has written: `from` of waitForAccess. */
  get mark(): number {
    return this.process.lines.length;
  }

  /** The first access record, from line `from` on, past or to come, that `test` takes. */
  waitForAccess(
    what: string,
    from: number,
    test: (record: ZtunnelRecord) => boolean,
  ): Promise<ZtunnelRecord> {
    const pick = (line: string): ZtunnelRecord | undefined => {
      const record = parseLine(line);
      const isAccess = record !== undefined && record['scope'] === 'access' && 'direction' in record;
      return isAccess && test(record) ? record : undefined;
    };
    return this.process.waitForLine(what, pick, { from });
  }

  /** Ends it: at once with SIGKILL. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    await this.process.stop(signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop('SIGKILL');
  }
}

function environment(pod: LabPod, options: ZtunnelOptions, meshFile: string): NodeJS.ProcessEnv {
  return {
    PATH: process.env['PATH'],
    PROXY_MODE: 'dedicated',
    PROXY_WORKLOAD_INFO: `${pod.namespace}/${pod.name}/${pod.serviceAccount}`,
    NODE_NAME: pod.nodeName,
    // Empty, not left out: else it waits for an istiod.
    XDS_ADDRESS: '',
    LOCAL_XDS_PATH: meshFile,
    CA_ADDRESS: `https://${options.caAddress}:${CA_PORT}`,
    CA_ROOT_CA: options.caRoot,
    AUTH_TOKEN: options.token,
    CLUSTER_ID: 'lab',
    PACKET_MARK: String(MARK),
    ENABLE_ORIG_SRC: 'false',
    IPV6_ENABLED: 'true',
    ISTIO_META_DNS_CAPTURE: 'false',
    ZTUNNEL_WORKER_THREADS: '1',
    CONNECTION_TERMINATION_DEADLINE: '1s',
    RUST_LOG: 'info',
    LOG_FORMAT: 'json',
  };
}

/** The test's stand-in for istio-cni, in this pod's namespace only: ztunnel's own sockets and its CA are left out. */
async function redirectOutbound(pod: LabPod, caAddress: string): Promise<void> {
  const rules = [
    'table inet interop',
    'delete table inet interop',
    'table inet interop {',
    ' chain output { type nat hook output priority -100;',
    `  meta mark & 0xfff == ${MARK} accept`,
    `  ip daddr ${caAddress} accept`,
    '  oifname "lo" accept',
    `  meta l4proto tcp redirect to :${OUTBOUND_PORT}`,
    ' }',
    '}',
    '',
  ];
  await must(['nsenter', `--net=${pod.netns}`, 'nft', '-f', '-'], { input: rules.join('\n') });
}

function parseLine(line: string): ZtunnelRecord | undefined {
  if (!line.startsWith('{')) return undefined;
  try {
    return Record_.parse(JSON.parse(line));
  } catch {
    return undefined;
  }
}
