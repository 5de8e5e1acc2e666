/** `culvert why`: allowed or denied, by which object and rule. */
import type { Command } from 'commander';
import { parseConfig } from '../../config.ts';
import { MeshError } from '../../errors.ts';
import { DEFAULT_ADMIN } from '../client.ts';
import type { Context, ExitCode, Io } from '../io.ts';
import { addKnobs, knobsGiven } from '../knob-flags.ts';
import { judgeFile } from '../policy/batch-file.ts';
import { explain } from '../policy/explain.ts';
import { fromDaemon, fromFiles } from '../policy/mesh-source.ts';
import { checkQuestion, questionOf } from '../policy/question.ts';
import type { QuestionFlags } from '../policy/question.ts';
import { whyText } from '../policy/why-text.ts';
import { MESH_KNOBS } from './lint.ts';

type Flags = QuestionFlags &
  Readonly<Record<string, unknown>> & {
    readonly batch?: string;
    readonly files?: readonly string[];
    readonly admin?: string;
    readonly json?: true;
  };

const EXAMPLES = `
From files (YAML of Namespaces, Pods or Deployments, policies), or without --files from this node's daemon:
  culvert why --files DIR --from shop/front --to shop/web --port 8080 --method GET --path /api/items
  culvert why --files policy.yaml --from-principal cluster.local/ns/shop/sa/front --to-namespace shop \\
    --to-label app=web --port 8080
Without --method, --path, --host or --header: bytes that are not HTTP.
Exits with 0 when allowed, 1 when denied, 2 on wrong usage.

--batch FILE: one case a line, each judged from an empty mesh; one answer a line, {"name", "verdict", "by", "why"}:
  {"name": …, "policies": [objects], "peerAuthentications": [objects],
   "mesh": {"rootNamespace", "trustDomain", "trustDomainAliases", "pathNormalization"},
   "request": {"srcPrincipal": "spiffe://…" or null, "srcNamespace", "srcIp", "dstIp", "dstPort", "dstNamespace",
    "dstLabels", "sni", "http": {"method", "path", "host", "headers"}}}
A line that is no case is answered {"name", "error"}, and the exit code is 1 then; verdicts do not change it.`;

export function addWhy(program: Command, { io, finish }: Context): void {
  const command = program
    .command('why')
    .description('would policies allow this: by which object and rule, and which others came close')
    .option('--from <ns/pod>', 'the client, a pod (or Deployment) by name')
    .option('--from-principal <id>', 'the client, an identity: spiffe://… or as policies write it')
    .option('--from-ip <address>', "the client's address; alone: a client with no identity")
    .option('--plaintext', 'the client has no identity')
    .option('--to <ns/pod>', 'the destination, a pod (or Deployment) by name')
    .option('--to-ip <address>', 'the destination, a pod by its address')
    .option('--to-namespace <name>', 'the destination, any workload of a namespace')
    .option('--to-label <k=v>', 'a label of it; may be repeated', collect)
    .option('--port <number>', "the workload's port, not the Service's")
    .option('--method <name>', 'of an HTTP request')
    .option('--path <target>', 'of an HTTP request, as it is sent')
    .option('--host <name>', 'of an HTTP request')
    .option('--header <k=v>', 'of an HTTP request; may be repeated', collect)
    .option('--sni <name>', 'server name of TLS that the client speaks itself')
    .option('--files <path>', 'a file or folder to judge by, - for standard input; may be repeated', collect)
    .option('--admin <host:port>', `ask a daemon's admin API (${DEFAULT_ADMIN} without --files)`)
    .option('--batch <file>', 'cases, one JSON object a line; - for standard input')
    .option('--json', 'print JSON')
    .addHelpText('after', EXAMPLES);
  addKnobs(command, MESH_KNOBS);
  command.action(async (flags: Flags) => finish(await why(io, flags)));
}

function collect(value: string, all: readonly string[] = []): readonly string[] {
  return [...all, value];
}

async function why(io: Io, flags: Flags): Promise<ExitCode> {
  if (flags.batch !== undefined) {
    const others = Object.keys(flags).filter((name) => name !== 'batch' && name !== 'json');
    if (others.length > 0)
      throw new MeshError('CONFIG_INVALID', '--batch: goes with --json only; a case has all that it needs');
    return judgeFile(io, flags.batch);
  }
  if (flags.files !== undefined && flags.admin !== undefined)
    throw new MeshError('CONFIG_INVALID', '--files and --admin: give one of them');
  checkQuestion(flags);
  const { state, doubts } =
    flags.files === undefined
      ? await fromDaemon(flags.admin ?? DEFAULT_ADMIN)
      : await fromFiles(io, flags.files, configOf(io, flags));
  const answer = explain(state, questionOf(flags, state));
  io.out(
    flags.json === true
      ? `${JSON.stringify({ ...answer, doubts }, undefined, 2)}\n`
      : whyText(answer, doubts, io.colour),
  );
  return answer.verdict === 'allow' ? 0 : 1;
}

function configOf(io: Io, flags: Flags): ReturnType<typeof parseConfig> {
  return parseConfig({ nodeName: 'why', ...knobsGiven(flags, MESH_KNOBS) }, io.env);
}
