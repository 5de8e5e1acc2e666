/** `culvert uninstall`: has the daemon leave every pod of its node, and waits until it has. */
import type { Command } from 'commander';
import { MeshError } from '../../errors.ts';
import { statusSchema } from '../answers.ts';
import type { StatusAnswer } from '../answers.ts';
import { ask, tell } from '../client.ts';
import { secondsOf } from '../cluster/certs.ts';
import { adminOf, reachCluster, withReach } from '../cluster/reach.ts';
import type { Reach } from '../cluster/reach.ts';
import { uninstallCluster } from '../cluster/uninstall.ts';
import type { Context, ExitCode, Io } from '../io.ts';

interface UninstallOptions extends Reach {
  readonly timeout: string;
  readonly dryRun?: true;
}

const POLL_MS = 500;

export function addUninstall(program: Command, { io, finish }: Context): void {
  withReach(program.command('uninstall'))
    .description(
      'leave every pod, remove our programs, pins, labels and objects, of a cluster or of one node, and wait until that is done',
    )
    .option('--dry-run', 'only say what would be done to a cluster')
    .option('--timeout <seconds>', 'how long to wait', '300')
    .addHelpText(
      'after',
      "\nExits with 1 when something is left. Without a daemon: 'culvert cleanup --node NAME'.",
    )
    .action(async (options: UninstallOptions) => finish(await uninstall(io, options)));
}

async function uninstall(io: Io, options: UninstallOptions): Promise<ExitCode> {
  const api = await reachCluster(io, options);
  if (api !== undefined) return uninstallCluster(io, api, options);
  const deadlineMs = io.now() + secondsOf(options.timeout) * 1_000;
  const admin = adminOf(options);
  if (options.dryRun === true)
    throw new MeshError('CONFIG_INVALID', '--dry-run: needs a cluster; give --kubeconfig PATH');
  await tell(admin, '/uninstall');
  let shown = '';
  for (;;) {
    const answer = await ask(admin, '/status', statusSchema);
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

function progressOf({ node, pods }: StatusAnswer): string {
  return pods.length === 0
    ? `node ${node}: no pod to go, removing programs and pins`
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
