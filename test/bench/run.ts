/** The run itself: candidates in turn, round after round, and what each gave. */
import { Lab } from '../lab/kit/lab.ts';
import type { LabDaemon } from '../lab/kit/daemon.ts';
import type { Candidate, CandidateName, Hole, StartOptions } from './candidates/candidate.ts';
import { CANDIDATES } from './candidates/candidate.ts';
import { startHaproxy } from './candidates/haproxy.ts';
import { startNone } from './candidates/none.ts';
import { startOurs } from './candidates/ours.ts';
import { startZtunnel } from './candidates/ztunnel.ts';
import type { Figures } from './figures.ts';
import { HandshakeCounter } from './handshakes.ts';
import { bulk, connections, idle, matrix, requests, slope } from './measure.ts';
import type { Bench } from './measure.ts';
import type { Options, Part } from './options.ts';
import { profiled } from './profile.ts';
import { setTimeout as sleep } from 'node:timers/promises';

/** Everything that was measured of one candidate: one entry a round and part. */
export type Samples = Map<string, Figures[]>;

export interface Outcome {
  readonly samples: Samples;
  readonly holes: readonly Hole[];
  readonly configs: Readonly<Record<string, string>>;
  /** Figures that failed, in words. */
  readonly failures: readonly string[];
}

const IDLE_MS = 3_000;

const STARTERS: Readonly<Record<CandidateName, (options: StartOptions) => Promise<Candidate>>> = {
  none: startNone,
  ours: startOurs,
  haproxy: startHaproxy,
  ztunnel: startZtunnel,
};

const REPEATED: Readonly<Partial<Record<Part, (bench: Bench, candidate: Candidate) => Promise<Figures>>>> = {
  bulk,
  requests,
  connections,
};

export class Run {
  readonly #options: Options;
  readonly #program: string;
  readonly #say: (line: string) => void;
  readonly #samples: Samples = new Map(CANDIDATES.map((name) => [name, []]));
  readonly #holes: Hole[] = [];
  readonly #failures: string[] = [];
  readonly #configs: Record<string, string> = {};
  #daemons: readonly LabDaemon[] = [];

  /** `program`: the load. `say`: gets progress lines. */
  constructor(options: Options, program: string, say: (line: string) => void) {
    this.#options = options;
    this.#program = program;
    this.#say = say;
  }

  get outcome(): Outcome {
    return {
      samples: this.#samples,
      holes: this.#holes,
      configs: this.#configs,
      failures: this.#failures,
    };
  }

  /** Adds figures that no round gives. */
  add(name: CandidateName, figures: Figures): void {
    this.#samples.get(name)?.push(figures);
  }

  /** One lab, all candidates side by side; each round takes them in turn. */
  async rounds(): Promise<void> {
    const { parts, rounds, seconds } = this.#options;
    const repeated = Object.entries(REPEATED).filter(([part]) => parts.some((one) => one === part));
    const wantsMemory = parts.includes('memory');
    if (repeated.length === 0 && !wantsMemory) return;
    await using lab = await Lab.create();
    const candidates = await this.#startAll(lab, 1);
    const bench = { program: this.#program, seconds };
    if (wantsMemory) {
      await sleep(IDLE_MS);
      for (const candidate of candidates)
        await this.#take(candidate, 'idle memory', () => Promise.resolve(idle(candidate)));
    }
    for (const [part, measure] of repeated)
      for (const candidate of candidates) await this.#warm(candidate, part, () => measure(bench, candidate));
    for (let round = 1; round <= rounds; round++)
      for (const [part, measure] of repeated)
        for (const candidate of candidates)
          await this.#take(candidate, `round ${round} of ${rounds}, ${part}`, () =>
            this.#profiled(candidate, `${part}-${round}`, () => measure(bench, candidate)),
          );
    if (!wantsMemory) return;
    for (const candidate of candidates)
      await this.#take(candidate, `${this.#options.held} held connections`, () =>
        slope(bench, candidate, this.#options.held),
      );
  }

  /** A lab for each candidate, so that its processes are cold and no others take memory. */
  async coldMatrix(): Promise<void> {
    if (!this.#options.parts.includes('matrix')) return;
    const seconds = Math.max(10, this.#options.seconds * 3);
    for (const name of CANDIDATES) {
      await using lab = await Lab.create();
      const [candidate] = await this.#startAll(lab, this.#options.matrixPods, [name]);
      if (candidate === undefined) continue;
      const handshakes = await HandshakeCounter.start(lab.node(2));
      await this.#take(candidate, 'cold matrix', async () => {
        const figures = await matrix({ program: this.#program, seconds }, candidate);
        return { ...figures, pacedHandshakes: (await handshakes.read()) / seconds };
      });
    }
  }

  async #startAll(
    lab: Lab,
    pods: number,
    names: readonly CandidateName[] = CANDIDATES,
  ): Promise<Candidate[]> {
    const started: Candidate[] = [];
    for (const name of names) {
      if (this.#holes.some((hole) => hole.name === name)) continue;
      this.#say(`start ${name}`);
      try {
        const candidate = await this.#start(lab, pods, name);
        this.#configs[name] = candidate.config;
        started.push(candidate);
      } catch (error) {
        this.#holes.push({ name, reason: sentence(error) });
      }
    }
    return started;
  }

  async #start(lab: Lab, pods: number, name: CandidateName): Promise<Candidate> {
    const { daemonFlags, profile } = this.#options;
    const options = { lab, program: this.#program, pods, daemonFlags, inspect: profile !== '' };
    if (name !== 'ours') return STARTERS[name](options);
    const ours = await startOurs(options);
    this.#daemons = ours.daemons;
    return ours;
  }

  /** A round that does not count: a daemon runs for weeks, and its first thousands of connections are compiled code's. */
  async #warm(candidate: Candidate, part: string, measure: () => Promise<Figures>): Promise<void> {
    this.#say(`warm up, ${part}: ${candidate.name}`);
    await measure().catch(() => undefined); // the rounds say what is wrong
  }

  #profiled(candidate: Candidate, label: string, measure: () => Promise<Figures>): Promise<Figures> {
    const { profile } = this.#options;
    return candidate.name === 'ours' && profile !== ''
      ? profiled(profile, label, this.#daemons, measure)
      : measure();
  }

  async #take(candidate: Candidate, what: string, measure: () => Promise<Figures>): Promise<void> {
    this.#say(`${what}: ${candidate.name}`);
    try {
      this.add(candidate.name, await measure());
    } catch (error) {
      this.#failures.push(`${candidate.name}, ${what}: ${sentence(error)}`);
    }
  }
}

function sentence(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.split('\n').slice(0, 3).join(' | ').slice(0, 500);
}
