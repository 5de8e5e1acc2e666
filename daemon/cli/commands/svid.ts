/** `culvert svid verify`: whether the proxy would take a certificate as a peer's. */
import type { Command } from 'commander';
import { KNOBS } from '../../config.ts';
import { MeshError } from '../../errors.ts';
import { parseTrustDomain } from '../../mesh/ids.ts';
import type { Context, ExitCode, Io } from '../io.ts';
import { readInput } from '../policy/input.ts';

interface VerifyOptions {
  readonly trustDomain: string;
  readonly roots: string;
  readonly at?: string;
}

/** What standard output has, on one line. */
interface Answer {
  readonly ok: boolean;
  /** null when nothing is proven. */
  readonly spiffeId: string | null;
  /** null when all is well. */
  readonly reason: string | null;
}

/** Roots and chains beyond this are refused as a whole (chain.ts has the same). */
const MAX_PEM_BYTES = 1 << 20;
/** RFC 3339, always with its offset: a time without one would mean another in each place. */
const TIME = /^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:\d\d)$/;

export function addSvid(program: Command, { io, finish }: Context): void {
  const svid = program.command('svid').description('look at SPIFFE certificates');
  svid
    .command('verify')
    .description("whether the proxy would take this certificate as a peer's, at a given time")
    .argument('<chain.pem>', 'the leaf first, then intermediates in any order; - is standard input')
    .requiredOption('--roots <file>', 'the trust anchors, PEM; only self-signed ones are anchors')
    .option('--trust-domain <name>', "the mesh's trust domain", KNOBS.trustDomain.fallback)
    .option('--at <time>', 'RFC 3339 (2026-11-21T18:00:00Z) or seconds since 1970; default: now')
    .option('--json', 'print JSON (it always is)')
    .addHelpText(
      'after',
      `
Prints one line of JSON: {"ok": true, "spiffeId": "spiffe://…", "reason": null}, or why not.
The chain is judged by the code that judges certificates in the daemon, as a client's and as a server's.
Exits with 0 when it would be taken, with 1 when not.`,
    )
    .action(async (chain: string, options: VerifyOptions) => finish(await verify(io, chain, options)));
}

async function verify(io: Io, chain: string, options: VerifyOptions): Promise<ExitCode> {
  const trustDomain = parseTrustDomain(options.trustDomain);
  if (trustDomain === undefined)
    throw new MeshError(
      'CONFIG_INVALID',
      `--trust-domain: "${options.trustDomain}" is not a trust domain of a-z 0-9 . _ -`,
    );
  const nowMs = options.at === undefined ? io.now() : timeOf(options.at);
  const rootsPem = await readInput(io, options.roots, '--roots', MAX_PEM_BYTES);
  const chainPem = await readInput(io, chain, 'the chain', MAX_PEM_BYTES);
  const answer = answerOf(await io.entryPoints.verifyPeer(chainPem, { rootsPem, trustDomain, nowMs }));
  io.out(`${JSON.stringify(answer)}\n`);
  return answer.ok ? 0 : 1;
}

function answerOf(verdict: Awaited<ReturnType<Io['entryPoints']['verifyPeer']>>): Answer {
  return verdict.ok
    ? { ok: true, spiffeId: verdict.id, reason: null }
    : { ok: false, spiffeId: null, reason: `${verdict.reason}: ${verdict.detail}` };
}

function timeOf(text: string): number {
  const ms = /^\d{1,12}$/.test(text) ? Number(text) * 1_000 : TIME.test(text) ? Date.parse(text) : Number.NaN;
  if (!Number.isNaN(ms)) return ms;
  throw new MeshError(
    'CONFIG_INVALID',
    `--at: "${text}" is neither a time such as 2026-11-21T18:00:00Z nor seconds since 1970`,
  );
}
