/** The flags of `culvert why` → a question about pods that are there. */
import { MeshError } from '../../errors.ts';
import { parseIp, parseSpiffeId } from '../../mesh/ids.ts';
import type { Ip, SpiffeId } from '../../mesh/ids.ts';
import type { Workload } from '../../mesh/model.ts';
import type { MeshState } from '../../mesh/state.ts';
import type { Question } from './explain.ts';
import type { WrittenRequest } from './request.ts';

export interface QuestionFlags {
  readonly from?: string;
  readonly fromPrincipal?: string;
  readonly fromIp?: string;
  readonly plaintext?: true;
  readonly to?: string;
  readonly toIp?: string;
  readonly toNamespace?: string;
  readonly toLabel?: readonly string[];
  readonly port?: string;
  readonly sni?: string;
  readonly method?: string;
  readonly path?: string;
  readonly host?: string;
  readonly header?: readonly string[];
}

/** Names shown when one is not found. */
const MAX_NAMES = 10;

/** What is wrong with flags before anything is read. @throws MeshError CONFIG_INVALID */
export function checkQuestion(flags: QuestionFlags): void {
  const targets = [flags.to, flags.toIp, flags.toNamespace].filter((one) => one !== undefined);
  if (targets.length !== 1)
    throw usage(
      'give one of --to NAMESPACE/POD, --to-ip ADDRESS and --to-namespace NAME (with --to-label K=V)',
    );
  if (flags.port === undefined) throw usage("--port: give the workload's port");
  const sources = [flags.from, flags.fromPrincipal, flags.fromIp, flags.plaintext];
  if (sources.every((one) => one === undefined))
    throw usage('give --from NAMESPACE/POD, --from-principal ID, --from-ip ADDRESS or --plaintext');
  if (flags.from !== undefined && flags.fromPrincipal !== undefined)
    throw usage('--from and --from-principal: give one of them');
  if (flags.fromPrincipal !== undefined && flags.plaintext === true)
    throw usage('--from-principal and --plaintext: give one of them');
}

/** @throws MeshError CONFIG_INVALID that says which flag is wrong, and what there is instead. */
export function questionOf(flags: QuestionFlags, state: MeshState): Question {
  checkQuestion(flags);
  const workload = flags.from === undefined ? undefined : podNamed(flags.from, '--from', state);
  return {
    source: {
      workload,
      id: principalOf(flags.fromPrincipal),
      ip: addressOf(flags.fromIp, '--from-ip'),
      plaintext: flags.plaintext === true || (workload === undefined && flags.fromPrincipal === undefined),
    },
    target: targetOf(flags, state),
    port: portOf(flags.port ?? ''),
    sni: flags.sni,
    http: httpOf(flags),
  };
}

function targetOf(flags: QuestionFlags, state: MeshState): Question['target'] {
  if (flags.toNamespace !== undefined) {
    const pairs = (flags.toLabel ?? []).map((text) => pairOf(text, '--to-label', '='));
    const labels = Object.fromEntries(pairs);
    return { namespace: flags.toNamespace, labels, workload: undefined, ip: undefined };
  }
  const ip = addressOf(flags.toIp, '--to-ip');
  const workload = ip === undefined ? podNamed(flags.to ?? '', '--to', state) : podAt(ip, state);
  return { namespace: workload.namespace, labels: workload.labels, workload, ip };
}

function podNamed(text: string, flag: string, state: MeshState): Workload {
  const [namespace, name, ...rest] = text.split('/');
  if (!namespace || !name || rest.length > 0) throw usage(`${flag}: "${text}" is not NAMESPACE/POD`);
  const pods = [...state.workloads()];
  const all = pods.filter((one) => one.namespace === namespace && one.name === name);
  // A pod that is being replaced under its name, and its successor: the one that stays.
  const found = all.find(({ terminating }) => !terminating) ?? all[0];
  if (found !== undefined) return found;
  const names = pods.filter((one) => one.namespace === namespace).map((one) => `${namespace}/${one.name}`);
  const known =
    names.length === 0
      ? `no pod of namespace ${namespace} is known`
      : `there are ${names.sort().slice(0, MAX_NAMES).join(', ')}${names.length > MAX_NAMES ? ' and more' : ''}`;
  throw usage(`${flag}: there is no pod ${text}; ${known}`);
}

function podAt(ip: Ip, state: MeshState): Workload {
  const workload = state.workloadByIp(ip);
  if (workload !== undefined) return workload;
  const service = state.serviceByClusterIp(ip);
  throw usage(
    service === undefined
      ? `--to-ip: no pod that is known has ${ip}; policies are about pods only`
      : `--to-ip: ${ip} is Service ${service.namespace}/${service.name}; policies are about pods and their ports: give one with --to`,
  );
}

/** `spiffe://td/ns/x/sa/y`, or as policies write it. */
function principalOf(text: string | undefined): SpiffeId | undefined {
  if (text === undefined) return undefined;
  const id = parseSpiffeId(text.startsWith('spiffe://') ? text : `spiffe://${text}`);
  if (id !== undefined) return id;
  throw usage(
    `--from-principal: "${text}" is not spiffe://<trust domain>/ns/<namespace>/sa/<service account>`,
  );
}

function addressOf(text: string | undefined, flag: string): Ip | undefined {
  const ip = text === undefined ? undefined : parseIp(text);
  if (text !== undefined && ip === undefined) throw usage(`${flag}: "${text}" is no IP address`);
  return ip;
}

function portOf(text: string): number {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : Number.NaN;
  if (port >= 1 && port <= 65_535) return port;
  throw usage(`--port: "${text}" is not a port from 1 to 65535`);
}

function httpOf({ method, path, host, header }: QuestionFlags): WrittenRequest | undefined {
  if ([method, path, host, header].every((one) => one === undefined)) return undefined;
  const headers = new Map<string, string[]>();
  for (const text of header ?? []) {
    const [name, value] = pairOf(text, '--header', /[=:]/);
    headers.set(name, [...(headers.get(name) ?? []), value]);
  }
  return { method: method ?? 'GET', path: path ?? '/', host, headers: Object.fromEntries(headers) };
}

function pairOf(text: string, flag: string, separator: string | RegExp): [string, string] {
  const at = typeof separator === 'string' ? text.indexOf(separator) : text.slice(1).search(separator) + 1;
  if (at <= 0) throw usage(`${flag}: "${text}" is not NAME=VALUE`);
  return [text.slice(0, at).trim(), text.slice(at + 1).trim()];
}

function usage(message: string): MeshError {
  return new MeshError('CONFIG_INVALID', message);
}
