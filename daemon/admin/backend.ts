/** What the admin API needs of the daemon; main.ts implements it. */
import type { SourceProblem } from '../mesh/model.ts';
import type { OpenConnection, PodStatus } from '../mesh/wiring.ts';
import type { RefusalSummary } from '../observe/access.ts';

/** How far `POST /uninstall` has come. `done`: no pod, program or pin of ours is left. */
export type UninstallState = 'no' | 'leaving' | 'done';

/** `GET /status`. */
export interface NodeStatus {
  readonly node: string;
  readonly version: string;
  readonly startedMs: number;
  /** Why it is not ready; empty when it is. */
  readonly notReady: readonly string[];
  readonly uninstall: UninstallState;
  /** The pods that are ours, in any state but `none`. */
  readonly pods: readonly PodStatus[];
  readonly refusals: readonly RefusalSummary[];
  readonly problems: readonly SourceProblem[];
}

/** One line of `GET /certs`. Never a key. */
export interface CertificateStatus {
  readonly identity: string;
  readonly state: 'waiting' | 'ready' | 'renewing' | 'failed' | 'expired';
  readonly serial: string | undefined;
  readonly notBeforeMs: number | undefined;
  readonly notAfterMs: number | undefined;
  /** The last failure, until the next success. */
  readonly error: string | undefined;
}

/** Each answer is plain JSON data; a rejection becomes a 500 whose body has the message. */
export interface AdminBackend {
  status(): Promise<NodeStatus>;
  connections(): Promise<readonly OpenConnection[]>;
  certificates(): Promise<readonly CertificateStatus[]>;
  /** Configuration and state of the mesh, without keys. */
  config(): Promise<unknown>;
  /** Begins to leave every pod; resolves as soon as that has begun. Doing it twice is doing it once. */
  uninstall(): Promise<void>;
}
