/** The `culvert` command: parses arguments, runs one command, turns every failure into a sentence and an exit code. */
import { Command, CommanderError } from 'commander';
import { MeshError } from '../errors.ts';
import { KubeError } from '../kube/seams.ts';
import { addCa } from './commands/ca.ts';
import { addCerts } from './commands/certs.ts';
import { addCheck } from './commands/check.ts';
import { addCleanup } from './commands/cleanup.ts';
import { addConfig } from './commands/config.ts';
import { addConnections } from './commands/connections.ts';
import { addDaemon } from './commands/daemon.ts';
import { addLimits } from './commands/limits.ts';
import { addLint } from './commands/lint.ts';
import { addStatus } from './commands/status.ts';
import { addSvid } from './commands/svid.ts';
import { addUninstall } from './commands/uninstall.ts';
import { addWhy } from './commands/why.ts';
import type { Context, ExitCode, Io } from './io.ts';
import { printable, printableLines } from './table.ts';

const COMMANDS: readonly ((program: Command, context: Context) => void)[] = [
  addDaemon,
  addCheck,
  addStatus,
  addConnections,
  addCerts,
  addCa,
  addLint,
  addWhy,
  addSvid,
  addConfig,
  addUninstall,
  addCleanup,
  addLimits,
];

/** Runs `culvert ARGS`. Never throws. @returns the exit code: 0 well, 1 a problem, 2 usage or no daemon. */
export async function run(args: readonly string[], io: Io): Promise<ExitCode> {
  let code: ExitCode = 0;
  const context: Context = { io, finish: (given) => (code = given) };
  try {
    await makeProgram(context).parseAsync(args, { from: 'user' });
    return code;
  } catch (error) {
    return explain(error, args, io);
  }
}

function makeProgram(context: Context): Command {
  const { io } = context;
  const program = new Command('culvert')
    .description('Mutual TLS, identity and policy for the pods of labelled namespaces')
    .version(io.version, '--version', 'print the version')
    .helpOption('-h, --help', 'print help')
    .helpCommand(false)
    .exitOverride()
    .configureOutput({ writeOut: (text) => io.out(text), writeErr: (text) => io.err(text) })
    .showHelpAfterError("See 'culvert --help'.")
    .addHelpText(
      'after',
      '\nExit codes: 0 well, 1 a problem was found, 2 wrong usage, or no daemon or API server to ask.',
    );
  for (const add of COMMANDS) add(program, context);
  return program;
}

/** commander has printed its own errors by now. */
function explain(error: unknown, args: readonly string[], io: Io): ExitCode {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
  const command = args.find((arg) => !arg.startsWith('-')) ?? '';
  if (error instanceof KubeError) {
    // What a server, or whoever wrote the object that it speaks of, has to say.
    io.err(printable(`culvert ${command}: the Kubernetes API: ${error.message}${hintOf(error)}`) + '\n');
    return error.status === 0 ? 2 : 1;
  }
  if (!(error instanceof MeshError)) {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    io.err(printableLines(`culvert ${command}: ${text}\n`));
    return 1;
  }
  io.err(printableLines(`culvert ${command}: ${error.message}\n`));
  return error.code === 'CONFIG_INVALID' || error.code === 'ADMIN_UNREACHABLE' ? 2 : 1;
}

function hintOf({ status, reason }: KubeError): string {
  if (reason === 'Credentials')
    return "; they come from the user of the kubeconfig's context (exec plugin, token or certificate): does kubectl get them?";
  if (status === 0) return '; is it up, and does the kubeconfig name the right cluster?';
  return status === 401 || status === 403 ? '; your account of the cluster may not do this' : '';
}
