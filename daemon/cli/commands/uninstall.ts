/** `culvert uninstall`: has the daemon leave every pod of its node, and waits until it has. */
import type { Command } from 'commander';
import { MeshError } from '../../errors.ts';
import { statusSchema } from '../answers.ts';
import type { StatusAnswer } from '../answers.ts';
import { ask, tell, withAdmin } from '../client.ts';
import type { Context, ExitCode, Io } from '../io.ts';

interface UninstallOptions {
  readonly admin: string;
  readonly timeout: string;
}

const POLL_MS = 500;

export function addUninstall(program: Command, { io, finish }: Context): void {
  withAdmin(program.command('uninstall'))
    .description('leave every pod of this node, remove our programs and pins, and wait until that is done')
    .option('--timeout <seconds>', 'how long to wait', '300')
    .addHelpText(
      'after',
      "\nExits with 1 when something is left. Without a daemon: 'culvert cleanup --node NAME'.",
    )
    .action(async (options: UninstallOptions) => finish(await uninstall(io, options)));
}

async function uninstall(io: Io, options: UninstallOptions): Promise<ExitCode> {
  const deadlineMs = io.now() + seconds(options.timeout) * 1_000;
  await tell(options.admin, '/uninstall');
  let shown = '';
  for (;;) {
    const answer = await ask(options.admin, '/status', statusSchema);
    if (answer.uninstall === 'done') {
      io.out(`node ${answer.node}: nothing of culvert is left\n`);
      return 0;
    }
    const progress = progressOf(answer);
    if (progress !== shown) io.out(`${progress}\n`);
    shown = progress;
    if (io.now() >= deadlineMs) return timedOut(io, answer, options.timeout);
    await io.sleep(POLL_MS);
  }
}

function seconds(text: string): number {
  if (/^\d{1,6}$/.test(text)) return Number(text);
  throw new MeshError('CONFIG_INVALID', `--timeout: "${text}" is not a number of seconds`);
}

function progressOf({ node, pods }: StatusAnswer): string {
  return pods.length === 0
    ? `node ${node}: every pod has been left, removing programs and pins`
    : `node ${node}: leaving, ${pods.length} ${pods.length === 1 ? 'pod' : 'pods'} to go`;
}

function timedOut(io: Io, { node, pods }: StatusAnswer, timeout: string): ExitCode {
  const names = pods.map((pod) =>
    `  ${pod.namespace}/${pod.name}: ${pod.state} ${pod.reason ?? ''}`.trimEnd(),
  );
  io.err(
    [
      `culvert uninstall: node ${node} is not done after ${timeout} s; still there: ${pods.length} pods`,
      ...names,
      "It goes on by itself: see 'culvert status', or run this again to wait on.",
      '',
    ].join('\n'),
  );
  return 1;
}
