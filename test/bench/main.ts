/** make bench: figures of no mesh, ours, an HAProxy pair and a ztunnel pair, on one machine, in turn. See --help. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus, release } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { REPOSITORY } from '../lab/kit/tools.ts';
import { must } from '../support/run.ts';
import { tempDir } from '../support/tmp.ts';
import { bare } from './bare.ts';
import { CANDIDATES } from './candidates/candidate.ts';
import { enrol } from './enrol.ts';
import type { Figures } from './figures.ts';
import { hot } from './hot.ts';
import { buildLoad } from './load.ts';
import { HELP, parseOptions } from './options.ts';
import type { Options } from './options.ts';
import { renderGroups, renderSingles, renderVerdicts } from './report.ts';
import { Run } from './run.ts';
import type { Outcome } from './run.ts';
import { median } from './stats.ts';
import { judge } from './targets.ts';
import type { Medians } from './targets.ts';

const began = performance.now();

function say(line: string): void {
  const seconds = Math.round((performance.now() - began) / 1_000);
  console.error(`${String(seconds).padStart(5)} s  ${line}`);
}

async function bench(options: Options): Promise<void> {
  await using folder = await tempDir('bench');
  const run = new Run(options, await buildLoad(folder.path), say);
  await run.rounds();
  await run.coldMatrix();
  const alone = async (part: string, what: string, measure: () => Promise<Figures>): Promise<void> => {
    if (!options.parts.some((one) => one === part)) return;
    say(what);
    run.add('ours', await measure());
  };
  await alone('memory', 'bare Node', () => bare(join(REPOSITORY, '.stamp')));
  await alone('enrol', `label ${options.enrolPods} pods`, () => enrol(options.enrolPods));
  await alone('hot', 'native calls of a connection', () => hot(folder.path));
  await report(options, run.outcome);
}

async function report(options: Options, outcome: Outcome): Promise<void> {
  const medians: Medians = Object.fromEntries(
    [...outcome.samples].map(([name, samples]) => [name, mediansOf(samples)]),
  );
  const verdicts = judge(medians);
  const view = { medians, candidates: CANDIDATES, holes: outcome.holes, parts: options.parts };
  console.log(`\n${renderGroups(view)}${renderSingles(view)}\n${renderVerdicts(verdicts)}`);
  for (const [name, config] of Object.entries(outcome.configs)) console.log(`${name}: ${config}`);
  for (const failure of outcome.failures) console.log(`FAILED: ${failure}`);
  const json = {
    date: new Date().toISOString(),
    kernel: release(),
    cpus: cpus().map(({ model }) => model),
    node: process.version,
    commit: await commit(),
    congestionControl: 'reno',
    options,
    configs: outcome.configs,
    holes: outcome.holes,
    failures: outcome.failures,
    medians,
    samples: Object.fromEntries(outcome.samples),
    targets: verdicts,
  };
  const file = resolve(REPOSITORY, options.json);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, `${JSON.stringify(json, null, 2)}\n`);
  console.log(`JSON: ${file}`);
  if (outcome.failures.length > 0) process.exitCode = 1;
}

function mediansOf(samples: readonly Figures[]): Figures {
  const keys = new Set(samples.flatMap((sample) => Object.keys(sample)));
  return Object.fromEntries(
    [...keys].map((key) => [key, median(samples.flatMap((sample) => sample[key] ?? []))]),
  );
}

/** The commit, with a plus sign when the tree differs from it. */
async function commit(): Promise<string> {
  const git = (...words: string[]): Promise<string> => must(['git', '-C', REPOSITORY, ...words]);
  const [head, changes] = [await git('rev-parse', 'HEAD'), await git('status', '--porcelain', '-uno')];
  return `${head.trim()}${changes === '' ? '' : '+'}`;
}

// An exit, unlike a signal, lets the temporary folder be removed; the lab's reaper ends the rest.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));

try {
  const options = parseOptions(process.argv.slice(2), process.env);
  if (options === 'help') console.log(HELP);
  else await bench(options);
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 2;
}
