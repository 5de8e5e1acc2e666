/**
 * The folder world's form of the published state (DESIGN.md 3a): each daemon writes `status/<node>.yaml` and
 * everyone reads it. A pod that is not in its node's file has published nothing.
 */
import { randomBytes } from 'node:crypto';
import { mkdir, open, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { MeshError } from '../errors.ts';
import { parsePodUid } from '../mesh/ids.ts';
import type { PodUid } from '../mesh/ids.ts';
import type { PodSaying, PublishedState } from '../mesh/model.ts';
import { parseText, pathText } from './documents.ts';
import type { LineProblem } from './documents.ts';
import { statusSchema } from './schemas.ts';

/** Name of the subfolder. */
export const STATUS_FOLDER = 'status';

export interface StatusContent {
  /** undefined when the file is broken: the last good one stays. */
  readonly pods: ReadonlyMap<PodUid, PublishedState> | undefined;
  readonly problems: readonly LineProblem[];
}

/** What `status/<node>.yaml` says. Pure. */
export function readStatus(text: string, node: string): StatusContent {
  const parsed = parseText(text);
  if (!parsed.ok) return { pods: undefined, problems: [parsed.problem] };
  const [document] = parsed.documents;
  const status = statusSchema.safeParse(document?.value);
  if (!status.success) {
    const problems = status.error.issues.slice(0, 5).map(({ path, message }) => {
      const steps = path.map((step) => (typeof step === 'symbol' ? String(step) : step));
      return { line: document?.lineOf(steps), reason: `${pathText(steps)}${message}` };
    });
    return { pods: undefined, problems };
  }
  if (status.data.node !== node)
    return {
      pods: undefined,
      problems: [
        { line: document?.lineOf(['node']), reason: `is of node ${status.data.node}, not ${node}: ignored` },
      ],
    };
  const pods = new Map<PodUid, PublishedState>();
  for (const pod of status.data.pods ?? []) {
    const uid = parsePodUid(pod.uid);
    if (uid !== undefined) pods.set(uid, { uid, state: pod.state, sinceMs: Date.parse(pod.since) });
  }
  return { pods, problems: [] };
}

/** The text of a node's status file. Pure; pods in the order of their UIDs, so that equal states give equal texts. */
export function statusText(node: string, sayings: readonly PodSaying[]): string {
  const sorted = sayings.filter(({ state }) => isForPeers(state)).sort((a, b) => (a.uid < b.uid ? -1 : 1));
  const pods = sorted.map(({ uid, state, sinceMs }) => ({
    uid,
    state,
    since: new Date(sinceMs).toISOString(),
  }));
  return `# Written by Culvert on ${node}: what its pods can do now. Do not edit.\n${stringify({ node, pods })}`;
}

function isForPeers(state: PodSaying['state']): boolean {
  return state === 'joining' || state === 'enrolled' || state === 'leaving' || state === 'unenrollable';
}

/** Writes one node's file, whole each time, by rename: no reader ever sees half of it. */
export class PublishedStateWriter {
  readonly #folder: string;
  readonly #node: string;
  #written: string | undefined;
  #next: string | undefined;
  #writing: Promise<void> | undefined;

  constructor(clusterDir: string, node: string) {
    this.#folder = join(clusterDir, STATUS_FOLDER);
    this.#node = node;
  }

  /**
   * Makes `sayings` all that this node publishes, as far as other nodes decide by it. Resolves when that, or a later call's, is on disk; calls made
   * meanwhile are written as one. @throws MeshError CLUSTER_DIR_INVALID when the file can't be written.
   */
  publish(sayings: readonly PodSaying[]): Promise<void> {
    this.#next = statusText(this.#node, sayings);
    return this.retry();
  }

  /** Writes what a failed `publish` could not; does nothing when nothing is left to write. @throws as publish */
  retry(): Promise<void> {
    this.#writing ??= this.#writeAll().finally(() => {
      this.#writing = undefined;
    });
    return this.#writing;
  }

  async #writeAll(): Promise<void> {
    while (this.#next !== undefined) {
      const text = this.#next;
      this.#next = undefined;
      if (text === this.#written) continue;
      try {
        await this.#write(text);
      } catch (error) {
        this.#next ??= text;
        throw error;
      }
      this.#written = text;
    }
  }

  async #write(text: string): Promise<void> {
    const path = join(this.#folder, `${this.#node}.yaml`);
    // Readers skip names that begin with a dot.
    const draft = join(this.#folder, `.${this.#node}.${randomBytes(6).toString('hex')}`);
    try {
      await mkdir(this.#folder, { recursive: true });
      await using file = await open(draft, 'wx', 0o644);
      await file.writeFile(text);
      await rename(draft, path);
    } catch (cause) {
      await rm(draft, { force: true }).catch(() => undefined);
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new MeshError(
        'CLUSTER_DIR_INVALID',
        `could not write ${path}: ${why}; make the folder writable`,
        {
          cause,
        },
      );
    }
  }
}
