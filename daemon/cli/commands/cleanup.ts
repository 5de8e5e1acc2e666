/** `culvert cleanup`: removes what a dead daemon left in the kernel; needs no daemon and no API. */
import type { Command } from 'commander';
import { KNOBS } from '../../config.ts';
import type { CleanupResult, Context, ExitCode, Io } from '../io.ts';

interface CleanupFlags {
  readonly node: string;
  readonly bpffs: string;
  readonly json?: true;
}

export function addCleanup(program: Command, { io, finish }: Context): void {
  program
    .command('cleanup')
    .description(
      "remove our programs and pins of a node whose daemon is gone; its pods' new connections go plain then",
    )
    .requiredOption('--node <name>', 'the node, as its daemon was told')
    .option('--bpffs <path>', KNOBS.bpffs.doc, KNOBS.bpffs.fallback)
    .option('--json', 'print JSON')
    .addHelpText('after', '\nExits with 1 when something could not be removed.')
    .action(async (flags: CleanupFlags) => finish(await cleanup(io, flags)));
}

async function cleanup(io: Io, { node, bpffs, json }: CleanupFlags): Promise<ExitCode> {
  const result = await io.entryPoints.cleanupNode({ nodeName: node, bpffs });
  io.out(json === true ? `${JSON.stringify(result, undefined, 2)}\n` : cleanupText(node, bpffs, result));
  return result.left.length === 0 ? 0 : 1;
}

function cleanupText(node: string, bpffs: string, { removed, left }: CleanupResult): string {
  const lines = [...removed.map((what) => `removed ${what}`), ...left.map((what) => `LEFT    ${what}`)];
  if (lines.length === 0) lines.push(`nothing of node ${node} was found under ${bpffs}`);
  return `${lines.join('\n')}\n`;
}
