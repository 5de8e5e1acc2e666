/** `culvert connections`: what is open now. */
import type { Command } from 'commander';
import { connectionsSchema } from '../answers.ts';
import type { ConnectionAnswer } from '../answers.ts';
import { ask, withAdmin } from '../client.ts';
import type { Context, ExitCode, Io } from '../io.ts';
import { span, table } from '../table.ts';

interface ConnectionsOptions {
  readonly admin: string;
  readonly json?: true;
}

export function addConnections(program: Command, { io, finish }: Context): void {
  withAdmin(program.command('connections'))
    .description("the connections that this node's daemon carries now")
    .option('--json', 'print JSON')
    .action(async (options: ConnectionsOptions) => finish(await connections(io, options)));
}

async function connections(io: Io, options: ConnectionsOptions): Promise<ExitCode> {
  const open = await ask(options.admin, '/connections', connectionsSchema);
  io.out(options.json === true ? `${JSON.stringify(open, undefined, 2)}\n` : connectionsText(open, io));
  return 0;
}

/** The table that a person reads, the oldest connection first. */
export function connectionsText(open: readonly ConnectionAnswer[], io: Pick<Io, 'now' | 'colour'>): string {
  if (open.length === 0) return 'no open connection\n';
  const rows = open
    .toSorted((a, b) => a.startMs - b.startMs)
    .map((one) => [
      one.direction,
      end(one.srcNamespace, one.srcWorkload, one.srcAddr),
      end(one.dstNamespace, one.dstWorkload, one.dstAddr),
      one.dstAddr,
      one.dstService ?? '-',
      one.security,
      (one.direction === 'outbound' ? one.dstIdentity : one.srcIdentity) ?? '-',
      span(io.now() - one.startMs),
      String(one.bytesSent),
      String(one.bytesReceived),
    ]);
  const headings =
    'DIRECTION SOURCE DESTINATION ADDRESS SERVICE SECURITY PEER-IDENTITY AGE SENT RECEIVED'.split(' ');
  return table(headings, rows, io.colour);
}

function end(namespace: string | undefined, workload: string | undefined, address: string): string {
  return namespace === undefined || workload === undefined ? address : `${namespace}/${workload}`;
}
