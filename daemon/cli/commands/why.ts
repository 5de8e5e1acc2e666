/** `culvert why`: allowed or denied, by which object and rule. */
import type { Command } from 'commander';
import type { Context } from '../io.ts';
import { judgeFile } from '../policy/batch-file.ts';

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
    .action(async ({ batch }: { readonly batch: string }) => finish(await judgeFile(io, batch)));
}
