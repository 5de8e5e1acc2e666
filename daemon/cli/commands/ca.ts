/** `culvert ca`: the cluster CA itself (`serve`), how far a rotation of its root is (`status`), and to begin one (`rotate`). */
import type { Command } from 'commander';
import { z } from 'zod';
import { envOf, parseConfig } from '../../config.ts';
import type { KnobName } from '../../config.ts';
import { MeshError } from '../../errors.ts';
import { KubeError } from '../../kube/seams.ts';
import type { KubeApi } from '../../kube/seams.ts';
import { mustReachCluster, withCluster } from '../cluster/reach.ts';
import type { Reach } from '../cluster/reach.ts';
import type { Context, ExitCode, Io } from '../io.ts';
import { addKnobs, knobsGiven } from '../knob-flags.ts';
import { printable, span, table } from '../table.ts';

const SERVE_KNOBS: readonly KnobName[] = [
  'kubeconfig',
  'podName',
  'podNamespace',
  'daemonSet',
  'trustDomain',
  'rootNamespace',
  'certLifetime',
  'certSource',
  'certIssuer',
  'certIssuerBundle',
  'certCaUsers',
  'metricsPort',
  'healthPort',
  'metricSeries',
  'logLevel',
];
/** identity/signer/store.ts has the other end. */
const ROTATION_MAP = 'culvert-ca-rotation';
/** Settings of the daemons and of the CA (manifests/base/config.yaml). */
const SETTINGS_MAP = 'culvert-config';

type Flags = Omit<Reach, 'admin'> & { readonly json?: true };

export function addCa(program: Command, { io, finish }: Context): void {
  const ca = program.command('ca').description('the CA of the cluster, and the rotation of its root');
  const serve = ca.command('serve').description('run culvert-ca in the foreground: one replica of it leads');
  addKnobs(serve, SERVE_KNOBS);
  serve.action(async (flags: Readonly<Record<string, unknown>>) => {
    // Where it runs means nothing to the CA.
    const given = { ...knobsGiven(flags, SERVE_KNOBS), nodeName: 'culvert-ca' };
    await io.entryPoints.startCa(parseConfig(given, io.env));
    finish(0);
  });
  withCluster(ca.command('status'))
    .description('what signs, the step of a rotation, and which nodes it waits for')
    .option('--json', 'print JSON')
    .addHelpText('after', '\nExits with 1 when the CA has a problem.')
    .action(async (flags: Flags) => finish(await status(io, flags)));
  withCluster(ca.command('rotate'))
    .description('have culvert-ca make a new root and walk to it, node by node, with no failed handshake')
    .addHelpText(
      'after',
      "\nA CA that you supplied in Secret culvert-ca is rotated by putting another in its place, and that of cert-manager's\nissuer by giving the issuer another.\nSee 'culvert ca status'.",
    )
    .action(async (flags: Flags) => finish(await rotate(io, flags)));
}

const nodes = z.array(z.object({ node: z.string(), why: z.string() }));
const issuer = z.object({ root: z.string(), certificate: z.string(), notAfter: z.string() });
const statusSchema = z.looseObject({
  step: z.enum(['none', 'steady', 'trust', 'reissue', 'retire']),
  since: z.string().optional(),
  trustDomain: z.string(),
  issuer: issuer.optional(),
  next: issuer.optional(),
  problem: z.string().optional(),
  request: z.string().optional(),
  waiting: nodes,
  waitingMore: z.number(),
  left: nodes,
});
export type CaStatus = z.infer<typeof statusSchema>;

const mapSchema = z.looseObject({
  metadata: z.looseObject({}),
  data: z.record(z.string(), z.string()).nullish(),
});

async function status(io: Io, flags: Flags): Promise<ExitCode> {
  const map = await readMap(await mustReachCluster(io, flags), flags);
  const text = map?.data?.['status'];
  if (text === undefined)
    throw new MeshError(
      'CA_FAILED',
      `there is no ConfigMap ${ROTATION_MAP} with a status in namespace ${flags.systemNamespace}: culvert-ca has not run yet; see kubectl -n ${flags.systemNamespace} get pods`,
    );
  const said = statusSchema.parse(JSON.parse(text));
  io.out(flags.json === true ? `${JSON.stringify(said, undefined, 2)}\n` : caText(said, io));
  return said.problem === undefined ? 0 : 1;
}

const STEPS: Readonly<Record<CaStatus['step'], string>> = {
  none: 'no CA yet',
  steady: 'steady: one root, no rotation',
  trust: '1 of 3, dual trust: every node is told to trust both roots',
  reissue: '2 of 3, reissue: certificates of the old root are replaced',
  retire: '3 of 3, retire: the old root is taken away from every node',
};

/** What a person reads. */
export function caText(said: CaStatus, io: Pick<Io, 'now' | 'colour'>): string {
  const since = said.since === undefined ? '' : ` (for ${span(io.now() - Date.parse(said.since))})`;
  const lines = [`step          ${STEPS[said.step]}${since}`, `trust domain  ${said.trustDomain}`];
  if (said.issuer !== undefined) lines.push(`signs         ${caLine(said.issuer)}`);
  if (said.next !== undefined) lines.push(`next          ${caLine(said.next)}`);
  if (said.request !== undefined) lines.push(`request       ${said.request}`);
  if (said.problem !== undefined) lines.push(`PROBLEM       ${said.problem}`);
  const rows = [
    ...said.waiting.map(({ node, why }) => [node, 'waited for', why]),
    ...said.left.map(({ node, why }) => [node, 'left out', why]),
  ];
  const more = said.waitingMore > 0 ? `and ${said.waitingMore} more\n` : '';
  const shown = rows.length === 0 ? '' : `\n${table(['NODE', 'GATE', 'WHY'], rows, io.colour)}${more}`;
  return `${lines.map(printable).join('\n')}\n${shown}`;
}

function caLine({ root, notAfter }: z.infer<typeof issuer>): string {
  return `root ${root.slice(0, 16)}, ends ${notAfter}`;
}

async function rotate(io: Io, flags: Flags): Promise<ExitCode> {
  const api = await mustReachCluster(io, flags);
  await mustBeOurs(api, flags);
  const requested = new Date(io.now()).toISOString();
  const maps = `/api/v1/namespaces/${flags.systemNamespace}/configmaps`;
  const map = await readMap(api, flags);
  const head = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: ROTATION_MAP } };
  if (map === undefined)
    await api.request({ method: 'POST', path: maps, body: { ...head, data: { requested } } });
  else
    await api.request({
      method: 'PATCH',
      path: `${maps}/${ROTATION_MAP}`,
      patch: 'application/merge-patch+json',
      body: { data: { requested } },
    });
  io.out(`asked culvert-ca for a new root; see 'culvert ca status'\n`);
  return 0;
}

/** @throws MeshError when the root is not ours to replace, with whose it is and what does replace it. */
async function mustBeOurs(api: KubeApi, flags: Flags): Promise<void> {
  const { data } = (await readMap(api, flags, SETTINGS_MAP)) ?? {};
  if (data?.[envOf('certSource')] !== 'cert-manager') return;
  const issuer = data[envOf('certIssuer')] ?? 'its issuer';
  const bundle = data[envOf('certIssuerBundle')] ?? "the issuer's Secret";
  throw new MeshError(
    'CA_FAILED',
    `certificates come from cert-manager (${issuer}), whose root is not culvert-ca's to replace, so nothing was asked. Give the issuer another CA, where its roots are read from (${bundle}): culvert-ca sees it there, has every node trust both roots, lets certificates be renewed, and takes the old root out; 'culvert ca status' shows how far that is`,
  );
}

async function readMap(
  api: KubeApi,
  flags: Flags,
  name = ROTATION_MAP,
): Promise<z.infer<typeof mapSchema> | undefined> {
  const path = `/api/v1/namespaces/${flags.systemNamespace}/configmaps/${name}`;
  try {
    return mapSchema.parse(await api.request({ method: 'GET', path }));
  } catch (error) {
    if (error instanceof KubeError && error.status === 404) return undefined;
    throw error;
  }
}
