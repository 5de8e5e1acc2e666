/** `culvert why`: allowed or denied, by which object and rule. */
import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { MeshError } from '../../errors.ts';
import type { Context, ExitCode, Io } from '../io.ts';
import { answerLine } from '../policy/batch.ts';

export function addWhy(program: Command, { io, finish }: Context): void {
  program
    .command('why')
    .description('judge requests by policies: allow or deny, by which object and rule')
    .requiredOption('--batch <file>', 'one JSON case a line (- for standard input); one JSON answer a line')
    .addHelpText(
      'after',
      `
A case: {"name": …, "policies": [objects], "peerAuthentications": [objects],
 "mesh": {"rootNamespace", "trustDomain", "trustDomainAliases", "pathNormalization"},
 "request": {"srcPrincipal": "spiffe://…" or null, "srcIp", "dstIp", "dstPort", "dstNamespace", "dstLabels", "sni",
  "http": {"method", "path", "host", "headers"}}}
Each is judged from an empty store. Without http: bytes that are not HTTP.
Exits with 1 when a line is no case.`,
    )
    .action(({ batch }: { readonly batch: string }) => finish(judgeAll(io, batch)));
}

function judgeAll(io: Io, file: string): ExitCode {
  let code: ExitCode = 0;
  for (const [i, line] of read(file).split('\n').entries()) {
    if (line.trim() === '') continue;
    const answer = answerLine(line);
    if ('problem' in answer) {
      io.err(`culvert why: ${file === '-' ? 'standard input' : file}:${i + 1}: ${answer.problem}\n`);
      code = 1;
    } else io.out(`${JSON.stringify(answer)}\n`);
  }
  return code;
}

function read(file: string): string {
  try {
    return readFileSync(file === '-' ? 0 : file, 'utf8');
  } catch (error) {
    throw new MeshError(
      'CONFIG_INVALID',
      `--batch: ${error instanceof Error ? error.message : String(error)}`,
    );
  }
}
