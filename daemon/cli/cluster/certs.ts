/** `culvert certs` over a cluster: every certificate of every node, and forcing a renewal. */
import { MeshError } from '../../errors.ts';
import type { KubeApi } from '../../kube/seams.ts';
import type { ExitCode, Io } from '../io.ts';
import { printable, span, table } from '../table.ts';
import type { Cell } from '../table.ts';
import { RENEW_ANNOTATION, publishedNode } from './published.ts';
import type { PublishedCertificate } from './published.ts';
import { listDaemons, podsPath } from './read.ts';
import type { PodObject } from './objects.ts';

export interface ClusterCertsOptions {
  readonly systemNamespace: string;
  readonly json?: true;
  /** true: all of them; a string: this identity only. */
  readonly renew?: string | true;
  readonly timeout: string;
}

interface Line extends PublishedCertificate {
  readonly node: string;
}

const POLL_MS = 500;

/** Prints every certificate. @returns 1 when one has failed or expired. @throws KubeError */
export async function showClusterCerts(
  io: Io,
  api: KubeApi,
  options: ClusterCertsOptions,
): Promise<ExitCode> {
  const { lines, unlisted } =
    options.renew === undefined ? await read(api, options) : await renew(io, api, options);
  io.out(options.json === true ? `${JSON.stringify(lines, undefined, 2)}\n` : certsText(lines, io));
  if (unlisted > 0)
    io.err(
      `culvert certs: ${unlisted} more are not listed; ask a node: kubectl -n culvert-system exec POD -- culvert certs\n`,
    );
  return lines.some(({ state }) => state === 'failed' || state === 'expired') ? 1 : 0;
}

interface Certificates {
  readonly daemons: readonly PodObject[];
  readonly lines: readonly Line[];
  readonly unlisted: number;
}

async function read(api: KubeApi, { systemNamespace }: ClusterCertsOptions): Promise<Certificates> {
  const daemons = await listDaemons(api, systemNamespace);
  const lines = daemons.flatMap((pod) =>
    (publishedNode(pod)?.certificates ?? []).map((one) => ({ ...one, node: pod.spec.nodeName ?? '' })),
  );
  const unlisted = daemons.reduce((sum, pod) => sum + (publishedNode(pod)?.more ?? 0), 0);
  lines.sort((a, b) => (a.node === b.node ? (a.id < b.id ? -1 : 1) : a.node < b.node ? -1 : 1));
  return { daemons, lines, unlisted };
}

/** Asks each daemon that has the identity, and waits until every serial is another one. */
async function renew(io: Io, api: KubeApi, options: ClusterCertsOptions): Promise<Certificates> {
  const deadlineMs = io.now() + secondsOf(options.timeout) * 1_000;
  const before = await read(api, options);
  const wanted = (line: Line): boolean => options.renew === true || line.id === options.renew;
  const old = new Map(before.lines.filter(wanted).map((line) => [keyOf(line), line.serial]));
  if (old.size === 0)
    throw new MeshError(
      'CONFIG_INVALID',
      `--renew: no node has a certificate of ${options.renew === true ? 'any identity' : String(options.renew)}`,
    );
  const value = `${options.renew === true ? '*' : String(options.renew)}@${new Date(io.now()).toISOString()}`;
  const nodes = new Set(before.lines.filter(wanted).map(({ node }) => node));
  for (const pod of before.daemons) if (nodes.has(pod.spec.nodeName ?? '')) await annotate(api, pod, value);
  let shown = -1;
  for (;;) {
    const now = await read(api, options);
    const left = now.lines.filter((line) => old.has(keyOf(line)) && old.get(keyOf(line)) === line.serial);
    if (left.length === 0) return now;
    if (left.length !== shown) io.err(`renewing: ${old.size - left.length} of ${old.size} done\n`);
    shown = left.length;
    if (io.now() >= deadlineMs)
      throw new MeshError(
        'CA_FAILED',
        `not renewed within ${options.timeout} s: ${left.map((line) => `${line.id} on ${line.node}`).join(', ')}; the old certificates are in use; see 'culvert certs' for errors`,
      );
    await io.sleep(POLL_MS);
  }
}

async function annotate(api: KubeApi, pod: PodObject, value: string): Promise<void> {
  await api.request({
    method: 'PATCH',
    path: `${podsPath(pod.metadata.namespace)}/${encodeURIComponent(pod.metadata.name)}`,
    patch: 'application/merge-patch+json',
    body: { metadata: { annotations: { [RENEW_ANNOTATION]: value } } },
  });
}

function keyOf({ node, id }: Line): string {
  return `${node} ${id}`;
}

/** A number of seconds as a flag has it. @throws MeshError CONFIG_INVALID */
export function secondsOf(text: string): number {
  if (/^\d{1,6}$/.test(text)) return Number(text);
  throw new MeshError('CONFIG_INVALID', `--timeout: "${text}" is not a number of seconds`);
}

/** The table that a person reads; errors stand below it. */
export function certsText(lines: readonly Line[], io: Pick<Io, 'now' | 'colour'>): string {
  if (lines.length === 0) return 'no daemon has published a certificate\n';
  const rows = lines.map((line) => [
    line.node,
    line.id,
    stateCell(line.state),
    line.serial ?? '-',
    line.notBefore ?? '-',
    line.notAfter ?? '-',
    remaining(line.notAfter, io.now()),
    line.source ?? '-',
    line.nextRenewal ?? '-',
  ]);
  const headings = 'NODE IDENTITY STATE SERIAL NOT-BEFORE NOT-AFTER REMAINING SOURCE NEXT-RENEWAL'.split(' ');
  const errors = lines.flatMap(({ node, id, error }) =>
    typeof error === 'string' ? [`${printable(`${id} on ${node}: ${error}`)}\n`] : [],
  );
  const shown = table(headings, rows, io.colour);
  return errors.length === 0 ? shown : `${shown}\n${errors.join('')}`;
}

function remaining(notAfter: string | null | undefined, nowMs: number): string {
  const ms = Date.parse(notAfter ?? '');
  return Number.isNaN(ms) ? '-' : span(ms - nowMs);
}

function stateCell(state: string): Cell {
  if (state === 'ready') return { text: state, colour: 'green' };
  return { text: state, colour: state === 'failed' || state === 'expired' ? 'red' : 'yellow' };
}
