/** `culvert certs`: the identities of a cluster or of one node, and how long their certificates last. */
import type { Command } from 'commander';
import { certificatesSchema } from '../answers.ts';
import type { CertificateAnswer } from '../answers.ts';
import { MeshError } from '../../errors.ts';
import { ask } from '../client.ts';
import { showClusterCerts } from '../cluster/certs.ts';
import { adminOf, reachCluster, withReach } from '../cluster/reach.ts';
import type { Reach } from '../cluster/reach.ts';
import type { Context, ExitCode, Io } from '../io.ts';
import { printable, span, table } from '../table.ts';
import type { Cell } from '../table.ts';

interface CertsOptions extends Reach {
  readonly json?: true;
  readonly renew?: string | true;
  readonly timeout: string;
}

export function addCerts(program: Command, { io, finish }: Context): void {
  withReach(program.command('certs'))
    .description(
      'every certificate: node, identity, state, serial, beginning, end, source, next renewal, last error',
    )
    .option('--renew [identity]', 'renew it, or all, on every node that has it, and wait; needs a cluster')
    .option('--timeout <seconds>', 'how long to wait for --renew', '60')
    .option('--json', 'print JSON')
    .addHelpText('after', '\nExits with 1 when one has failed or expired.')
    .action(async (options: CertsOptions) => finish(await certs(io, options)));
}

async function certs(io: Io, options: CertsOptions): Promise<ExitCode> {
  const api = await reachCluster(io, options);
  if (api !== undefined) return showClusterCerts(io, api, options);
  if (options.renew !== undefined)
    throw new MeshError('CONFIG_INVALID', '--renew: needs a cluster; give --kubeconfig PATH');
  const all = await ask(adminOf(options), '/certs', certificatesSchema);
  io.out(options.json === true ? `${JSON.stringify(all, undefined, 2)}\n` : certsText(all, io));
  return all.some(({ state }) => state === 'failed' || state === 'expired') ? 1 : 0;
}

/** The table that a person reads; errors stand below it. */
export function certsText(all: readonly CertificateAnswer[], io: Pick<Io, 'now' | 'colour'>): string {
  if (all.length === 0) return 'no identity is needed on this node\n';
  const rows = all.map((one) => [
    one.identity,
    stateCell(one),
    one.serial ?? '-',
    one.notAfterMs === undefined ? '-' : new Date(one.notAfterMs).toISOString(),
    one.notAfterMs === undefined ? '-' : span(one.notAfterMs - io.now()),
  ]);
  const errors = all.flatMap(({ identity, error }) =>
    error === undefined ? [] : [`${printable(`${identity}: ${error}`)}\n`],
  );
  const shown = table(['IDENTITY', 'STATE', 'SERIAL', 'NOT-AFTER', 'REMAINING'], rows, io.colour);
  return errors.length === 0 ? shown : `${shown}\n${errors.join('')}`;
}

function stateCell({ state }: CertificateAnswer): Cell {
  if (state === 'ready') return { text: state, colour: 'green' };
  return { text: state, colour: state === 'failed' || state === 'expired' ? 'red' : 'yellow' };
}
