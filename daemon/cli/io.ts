/** What a command may touch of the world; tests give their own. */
import type { Config } from '../config.ts';
import type { KubeconfigChoice } from '../kube/config.ts';
import type { KubeApi } from '../kube/seams.ts';
import type { TrustDomain } from '../mesh/ids.ts';
import type { Delta } from '../mesh/model.ts';

/** One result of `culvert check`. */
export interface Finding {
  readonly id: string;
  readonly ok: boolean | 'warn';
  readonly what: string;
  readonly detail: string;
  /** What to do; '' when there is nothing to do. */
  readonly fix: string;
}

export type CleanupOptions = Pick<Config, 'nodeName' | 'bpffs'>;

export interface CleanupResult {
  readonly removed: readonly string[];
  /** What could not be removed, each with the reason. */
  readonly left: readonly string[];
}

/** One object of a file (cluster/manifests.ts). */
export interface ManifestObject {
  /** As it was named, or `-`. */
  readonly file: string;
  readonly value: unknown;
  /** The line of the innermost part of `path` that is there. */
  readonly lineOf: (path: readonly (string | number)[]) => number | undefined;
}

/** What files hold; what can't be read is among the problems. */
export interface Manifests {
  readonly objects: readonly ManifestObject[];
  /** What nodes' status files say of pods. */
  readonly published: readonly Delta[];
  readonly problems: readonly {
    readonly file: string;
    readonly line: number | undefined;
    readonly reason: string;
  }[];
}

/** Whom a certificate chain proves (identity/chain.ts). */
export type PeerVerdict =
  | { readonly ok: true; readonly id: string }
  | { readonly ok: false; readonly reason: string; readonly detail: string };

export interface PeerOptions {
  readonly rootsPem: string;
  readonly trustDomain: TrustDomain;
  /** Wall clock, ms since the epoch. */
  readonly nowMs: number;
}

/** The parts of the daemon that a command starts. Loaded when called: other commands stay light. */
export interface EntryPoints {
  /** Resolves when the daemon has stopped. */
  startDaemon(config: Config): Promise<void>;
  /** The same for `culvert-ca`. */
  startCa(config: Config): Promise<void>;
  preflight(config: Config): Promise<readonly Finding[]>;
  cleanupNode(options: CleanupOptions): Promise<CleanupResult>;
  /** The API that a kubeconfig names. @throws MeshError CONFIG_INVALID when it can't be used. */
  connectCluster(kubeconfig: KubeconfigChoice): Promise<KubeApi>;
  /** Files, folders, and standard input (`-`). Never rejects. */
  readManifests(paths: readonly string[], stdin: Io['stdin']): Promise<Manifests>;
  /** What the mesh makes of one Kubernetes object, as of one in the daemon's folder. */
  readObject(): Promise<(value: unknown) => Delta | undefined>;
  /** Whether the proxy takes this chain (PEM, leaf first) as a peer's. Never rejects. */
  verifyPeer(chainPem: string, options: PeerOptions): Promise<PeerVerdict>;
}

export interface Io {
  readonly out: (text: string) => void;
  readonly err: (text: string) => void;
  readonly stdin: () => AsyncIterable<Uint8Array>;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Whether `out` is a terminal that wants colours. */
  readonly colour: boolean;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  readonly sleep: (ms: number) => Promise<void>;
  readonly version: string;
  readonly entryPoints: EntryPoints;
}

/** What a command ends with: 0 well, 1 a problem was found, 2 wrong usage, or no daemon or API server to ask. */
export type ExitCode = 0 | 1 | 2;

/** How a command hands its exit code over. */
export interface Context {
  readonly io: Io;
  readonly finish: (code: ExitCode) => void;
}
