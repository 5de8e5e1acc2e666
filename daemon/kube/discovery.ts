/** Whether the API serves a kind that comes with a CustomResourceDefinition, and in which version. */
import { z } from 'zod';
import { KubeError } from './seams.ts';
import type { KubeApi } from './seams.ts';

/** A kind that a cluster may not have. */
export interface CustomKind {
  readonly group: string;
  /** Those that can be read, the preferred one first. */
  readonly versions: readonly string[];
  /** `authorizationpolicies`. */
  readonly resource: string;
}

const word = z.string().max(253);
const groupSchema = z.object({
  name: word,
  versions: z.array(z.object({ version: word })).max(100),
});
const groupsSchema = z.object({ kind: z.literal('APIGroupList'), groups: z.array(z.object({ name: word })) });
const resourcesSchema = z.object({
  kind: z.literal('APIResourceList'),
  resources: z.array(z.object({ name: z.string().max(512) })),
});

/** The path of the collection in one of its versions. */
export function collectionPath({ group, resource }: CustomKind, version: string): string {
  return `/apis/${group}/${version}/${resource}`;
}

/** One look at a group: what it needs of the server is asked for once, whoever looks. */
export class Look {
  readonly #api: KubeApi;
  readonly #group: string;
  readonly #answers = new Map<string, Promise<unknown>>();
  #hasFailed = false;

  constructor(api: KubeApi, group: string) {
    this.#api = api;
    this.#group = group;
  }

  /** It could not tell somebody something: nobody needs to be told the same. */
  get hasFailed(): boolean {
    return this.#hasFailed;
  }

  /**
   * The version of a kind of the group that is served; undefined: none. That is believed only when the list of all
   * groups says so, for a 404 may come from whatever stands before the server; not asked again where it
   * `isKnownAbsent`. `signal` ends what is asked for here first, also for others.
   * @throws KubeError when it can't be told
   */
  async servedVersion(
    kind: CustomKind,
    isKnownAbsent: boolean,
    signal: AbortSignal,
  ): Promise<string | undefined> {
    try {
      return await this.#servedVersion(kind, isKnownAbsent, signal);
    } catch (error) {
      this.#hasFailed = true;
      throw error;
    }
  }

  async #servedVersion(
    kind: CustomKind,
    isKnownAbsent: boolean,
    signal: AbortSignal,
  ): Promise<string | undefined> {
    const path = `/apis/${this.#group}`;
    const group = await this.#get(path, signal).catch((error: unknown) => {
      if (error instanceof KubeError && error.status === 404) return undefined;
      throw error;
    });
    if (group === undefined) {
      if (!isKnownAbsent) await this.#confirmAbsence(signal);
      return undefined;
    }
    const served = checked(groupSchema, group, path).versions.map(({ version }) => version);
    for (const version of kind.versions.filter((one) => served.includes(one))) {
      const answer = await this.#get(`${path}/${version}`, signal);
      const { resources } = checked(resourcesSchema, answer, `${path}/${version}`);
      if (resources.some(({ name }) => name === kind.resource)) return version;
    }
    return undefined;
  }

  async #confirmAbsence(signal: AbortSignal): Promise<void> {
    const { groups } = checked(groupsSchema, await this.#get('/apis', signal), '/apis');
    if (groups.some(({ name }) => name === this.#group))
      throw new KubeError(
        0,
        'BadAnswer',
        `/apis has the group ${this.#group}, and /apis/${this.#group} was not found`,
      );
  }

  #get(path: string, signal: AbortSignal): Promise<unknown> {
    const answer = this.#answers.get(path) ?? this.#api.request({ method: 'GET', path, signal });
    this.#answers.set(path, answer);
    return answer;
  }
}

/** Times in ms. */
export interface LookTuning {
  /** A kind that is not there is looked for again after this, and up to twice as long, or later with many nodes. */
  readonly lookMs: number;
  /** How many nodes there are: each looks. */
  readonly nodes: () => number;
  /** 0 to 1. */
  readonly random: () => number;
}

const TUNING: LookTuning = { lookMs: 10_000, nodes: () => 1, random: Math.random };
/** From so many nodes a second a look is begun at most; a third less on average. */
const LOOKS_PER_SECOND = 30;

/** The looks at a group for those of its kinds that are not there: all of them look at the same time, by one look. */
export class Looks {
  readonly #api: KubeApi;
  readonly #group: string;
  readonly #tuning: LookTuning;
  #look: Look | undefined;
  /** When the next one is due. */
  #dueMs = 0;

  constructor(api: KubeApi, group: string, tuning: Partial<LookTuning> = {}) {
    this.#api = api;
    this.#group = group;
    this.#tuning = { ...TUNING, ...tuning };
  }

  /** One that asks the server now, as is needed where something is held. */
  fresh(): Look {
    return new Look(this.#api, this.#group);
  }

  /** The last one, until the next is due. */
  shared(): Look {
    if (this.#look === undefined || this.#look.hasFailed || performance.now() >= this.#dueMs) {
      this.#look = this.fresh();
      this.#plan();
    }
    return this.#look;
  }

  /** Ms until the next one. */
  pauseMs(): number {
    const leftMs = this.#dueMs - performance.now();
    if (leftMs > 0) return leftMs;
    this.#look = undefined;
    return this.#plan();
  }

  #plan(): number {
    const { lookMs, nodes, random } = this.#tuning;
    const pauseMs = Math.max(lookMs, (nodes() * 1_000) / LOOKS_PER_SECOND) * (1 + random());
    this.#dueMs = performance.now() + pauseMs;
    return pauseMs;
  }
}

function checked<T>(schema: z.ZodType<T>, answer: unknown, path: string): T {
  const read = schema.safeParse(answer);
  if (read.success) return read.data;
  throw new KubeError(0, 'BadAnswer', `GET ${path}: the answer is no discovery document`);
}
