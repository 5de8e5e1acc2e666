/**
 * Where the API server is and how to prove who we are, as kubectl and pods know it. Only the light modules of
 * @kubernetes/client-node: its KubeConfig takes 82 MB resident for what these do in 8.
 */
import { readFileSync } from 'node:fs';
import { isIPv6 } from 'node:net';
import { dirname, resolve, sep } from 'node:path';
import { newClusters, newContexts, newUsers } from '@kubernetes/client-node/dist/config_types.js';
import type { Cluster, Context, User } from '@kubernetes/client-node/dist/config_types.js';
import { FileAuth } from '@kubernetes/client-node/dist/file_auth.js';
import { parse } from 'yaml';
import { z } from 'zod';
import { MeshError } from '../errors.ts';
import { ExecPlugin } from './exec-plugin.ts';

/** What one request carries. */
export interface Credentials {
  /** PEM; a new value means new connections. */
  readonly ca: string | undefined;
  readonly cert: string | undefined;
  readonly key: string | undefined;
  /** Never to be logged. */
  readonly authorization: string | undefined;
  readonly impersonate: string | undefined;
}

/** One API server and one user of it. */
export interface Access {
  /** `https://host:port[/prefix]`, no slash at the end. */
  readonly server: string;
  /** Name in the server's certificate, where it is not the host. */
  readonly serverName: string | undefined;
  /** What to send now: files and plugins are asked again when they may have changed. @throws MeshError CONFIG_INVALID */
  credentials(): Promise<Credentials>;
  /** The server did not take the token: the next `credentials` is fresh. */
  renew(): void;
}

const ACCOUNT = '/var/run/secrets/kubernetes.io/serviceaccount';
/** Files are read again after this long; kubelets renew a token at four fifths of its life. */
const FILE_AGE_MS = 60_000;

const CONTEXTS_NAMED = 10;

/** Which user of which cluster, as kubectl has it. */
export interface KubeconfigChoice {
  /** Paths, at least one; those where nothing is are passed over. Of two that give one name a value, the first holds. */
  readonly files: readonly string[];
  /** undefined: the current one. */
  readonly context: string | undefined;
}

const extensionsSchema = z.array(z.looseObject({ name: z.string(), extension: z.unknown() }));
const kubeconfigSchema = z.object({
  clusters: z
    .array(z.looseObject({ cluster: z.looseObject({ extensions: extensionsSchema.nullish() }).nullish() }))
    .nullish(),
  contexts: z.array(z.unknown()).nullish(),
  users: z.array(z.looseObject({ name: z.string(), user: z.looseObject({}).nullish() })).nullish(),
  'current-context': z.string().nullish(),
});

/** What a file holds, or several one after the other: the first of a name counts. Its paths are absolute. */
interface Kubeconfig {
  /** For a person: the files. */
  readonly where: string;
  /** '' when none is. */
  readonly current: string;
  readonly contexts: readonly Context[];
  readonly clusters: readonly KubeCluster[];
  readonly users: readonly KubeUser[];
}

/** With what client-node leaves out. */
interface KubeCluster extends Cluster {
  /** What exec plugins of this cluster are told besides. */
  readonly pluginConfig?: unknown;
}

interface KubeUser extends User {
  /** Fields that say who to be, beyond a name. */
  readonly notSupported?: readonly string[];
}

/** Where a cluster has what its plugins are told (client-go, clientcmd: execConfigKey). */
const PLUGIN_EXTENSION = 'client.authentication.k8s.io/exec';
/** Left out, we would have other rights than kubectl. */
const NOT_SUPPORTED = ['as-uid', 'as-groups', 'as-user-extra'] as const;

/**
 * Access by the kubeconfig file at `path`; '' means: as a pod's service account.
 * @param env where KUBERNETES_SERVICE_HOST and _PORT are, which the kubelet sets in every pod.
 * @throws MeshError CONFIG_INVALID naming what is missing or not supported.
 */
export function openAccess(
  path: string,
  env: Readonly<Record<string, string | undefined>>,
  accountFolder = ACCOUNT,
): Access {
  return path === '' ? fromPod(env, accountFolder) : openKubeconfig({ files: [path], context: undefined });
}

/**
 * Access by one context of one or several kubeconfig files.
 * @throws MeshError CONFIG_INVALID naming what is missing or not supported.
 */
export function openKubeconfig({ files, context }: KubeconfigChoice): Access {
  const all = merged(files);
  const { cluster, user } = inContext(all, context ?? all.current);
  mustBeSupported(all.where, cluster, user);
  try {
    return new ServerAccess(cluster, user);
  } catch (cause) {
    const why = messageOf(cause);
    throw invalid(`${all.where}: the exec plugin of user "${user.name}" can't be used: ${why}`, cause);
  }
}

function fromPod(env: Readonly<Record<string, string | undefined>>, folder: string): Access {
  const host = env['KUBERNETES_SERVICE_HOST'];
  const port = env['KUBERNETES_SERVICE_PORT'];
  if (host === undefined || port === undefined)
    throw invalid('this is no pod (KUBERNETES_SERVICE_HOST is not set); give a kubeconfig, or --cluster-dir');
  return new ServerAccess(
    {
      name: 'pod',
      server: `https://${isIPv6(host) ? `[${host}]` : host}:${port}`,
      skipTLSVerify: false,
      caFile: `${folder}/ca.crt`,
    },
    tokenFileUser('pod', `${folder}/token`),
  );
}

function mustBeSupported(where: string, cluster: Cluster, user: KubeUser): void {
  if (cluster.skipTLSVerify)
    throw invalid(
      `${where}: insecure-skip-tls-verify is set: anyone could pose as the API server; give its certificate-authority`,
    );
  if (!cluster.server.startsWith('https://'))
    throw invalid(`${where}: the server ${cluster.server} is not https`);
  if (cluster.proxyUrl) throw invalid(`${where}: proxy-url is not supported`);
  const [other] = user.notSupported ?? [];
  if (other !== undefined) throw invalid(`${where}: ${other} is not supported (user "${user.name}")`);
  const provider: unknown = user.authProvider;
  if (provider && !new FileAuth().isAuthProvider(user))
    throw invalid(`${where}: auth-provider is not supported; use an exec plugin, a token or a certificate`);
}

/** The cluster and the user that a context names. A context without a user is asked as nobody. */
function inContext(all: Kubeconfig, name: string): { cluster: KubeCluster; user: KubeUser } {
  const context = all.contexts.find((one) => one.name === name);
  if (context === undefined) throw invalid(noContext(all, name));
  const cluster = all.clusters.find((one) => one.name === context.cluster);
  if (cluster === undefined) throw invalid(`${all.where}: there is no cluster "${context.cluster}"`);
  const user = all.users.find((one) => one.name === context.user);
  if (user === undefined && context.user) throw invalid(`${all.where}: there is no user "${context.user}"`);
  return { cluster, user: user ?? { name: 'nobody' } };
}

function noContext({ where, contexts }: Kubeconfig, name: string): string {
  const names = [...new Set(contexts.map((context) => context.name))];
  const more = names.length > CONTEXTS_NAMED ? ` and ${names.length - CONTEXTS_NAMED} more` : '';
  const known =
    names.length === 0 ? 'there is none' : `there are: ${names.slice(0, CONTEXTS_NAMED).join(', ')}`;
  return `${where}: there is no context "${name}"; ${known}${more}`;
}

function merged(files: readonly string[]): Kubeconfig {
  const read = files.flatMap((path) => readKubeconfig(path) ?? []);
  if (read.length === 0) throw invalid(`there is no kubeconfig at ${files.join(' or ')}`);
  return {
    where: read.map(({ where }) => where).join(', '),
    current: read.find(({ current }) => current !== '')?.current ?? '',
    contexts: read.flatMap(({ contexts }) => contexts),
    clusters: read.flatMap(({ clusters }) => clusters),
    users: read.flatMap(({ users }) => users),
  };
}

/** undefined: there is no such file. An empty one, such as /dev/null, holds nothing. */
function readKubeconfig(path: string): Kubeconfig | undefined {
  try {
    const text = textAt(path);
    if (text === undefined) return undefined;
    const file = kubeconfigSchema.parse(parse(text) ?? {});
    return {
      where: path,
      current: file['current-context'] ?? '',
      contexts: newContexts(file.contexts),
      clusters: newClusters(file.clusters).map((cluster, at) =>
        clusterFrom(path, cluster, file.clusters?.[at]?.cluster?.extensions ?? []),
      ),
      users: newUsers(file.users).map((user, at) => userFrom(path, user, file.users?.[at]?.user ?? {})),
    };
  } catch (cause) {
    throw invalid(`the kubeconfig ${path} can't be used: ${messageOf(cause)}`, cause);
  }
}

function textAt(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
    throw error;
  }
}

/** Absent is undefined or null: client-node hands on what the YAML has. */
function clusterFrom(
  path: string,
  cluster: Cluster,
  extensions: z.infer<typeof extensionsSchema>,
): KubeCluster {
  const pluginConfig = extensions.find(({ name }) => name === PLUGIN_EXTENSION)?.extension;
  return { ...cluster, pluginConfig, ...(cluster.caFile ? { caFile: beside(path, cluster.caFile) } : {}) };
}

function userFrom(path: string, user: User, fields: Readonly<Record<string, unknown>>): KubeUser {
  const { tokenFile, exec } = fields;
  return {
    ...user,
    notSupported: NOT_SUPPORTED.filter((field) => !isEmpty(fields[field])),
    ...(typeof tokenFile === 'string' && tokenFile !== ''
      ? tokenFileUser(user.name, beside(path, tokenFile))
      : {}),
    ...(isTable(exec) ? { exec: { ...exec, command: commandBeside(path, exec['command']) } } : {}),
    ...(user.certFile ? { certFile: beside(path, user.certFile) } : {}),
    ...(user.keyFile ? { keyFile: beside(path, user.keyFile) } : {}),
  };
}

function isTable(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null;
}

function isEmpty(value: unknown): boolean {
  return !value || (typeof value === 'object' && Object.keys(value).length === 0);
}

/** A bare name is looked for in PATH. */
function commandBeside(path: string, command: unknown): unknown {
  return typeof command === 'string' && command.includes(sep) ? beside(path, command) : command;
}

/** What a kubeconfig says is relative to its own folder. */
function beside(path: string, file: string): string {
  return resolve(dirname(path), file);
}

function tokenFileUser(name: string, tokenFile: string): User {
  return { name, authProvider: { name: 'tokenFile', config: { tokenFile } } };
}

class ServerAccess implements Access {
  readonly server: string;
  readonly serverName: string | undefined;
  readonly #cluster: KubeCluster;
  readonly #user: User;
  readonly #files = new Map<string, { readonly text: string; readonly readMs: number }>();
  #tokenFile = new FileAuth();
  readonly #plugin: ExecPlugin | undefined;

  /** @throws Error when the user's exec plugin can't be run as it is. */
  constructor(cluster: KubeCluster, user: User) {
    this.server = cluster.server;
    // Both come from YAML: absent may be null.
    this.serverName = cluster.tlsServerName || undefined;
    this.#cluster = cluster;
    this.#user = user;
    const exec: unknown = user.exec;
    if (exec) this.#plugin = new ExecPlugin(exec, () => this.#clusterInfo());
  }

  async credentials(): Promise<Credentials> {
    const [cluster, user] = [this.#cluster, this.#user];
    try {
      const token = await this.#fileToken();
      const asked = token === undefined ? await this.#plugin?.credentials() : undefined;
      return {
        ca: this.#pem(cluster.caFile, cluster.caData),
        cert: asked?.cert ?? this.#pem(user.certFile, user.certData),
        key: asked?.key ?? this.#pem(user.keyFile, user.keyData),
        authorization: bearer(token ?? asked?.token) ?? ownAuthorization(user),
        impersonate: user.impersonateUser || undefined,
      };
    } catch (cause) {
      throw invalid(`the credentials for ${this.server} can't be had: ${messageOf(cause)}`, cause);
    }
  }

  renew(): void {
    this.#tokenFile = new FileAuth();
    this.#plugin?.renew();
    this.#files.clear();
  }

  async #fileToken(): Promise<string | undefined> {
    if (!this.#tokenFile.isAuthProvider(this.#user)) return undefined;
    const asked = { headers: {} };
    await this.#tokenFile.applyAuthentication(this.#user, asked);
    const value: unknown = Reflect.get(asked.headers, 'Authorization');
    return typeof value === 'string' ? value.replace(/^Bearer /, '') : undefined;
  }

  /** `spec.cluster` of an ExecCredential. */
  #clusterInfo(): object {
    const { caFile, caData, pluginConfig } = this.#cluster;
    const ca = this.#pem(caFile, caData);
    return {
      server: this.server,
      ...(this.serverName === undefined ? {} : { 'tls-server-name': this.serverName }),
      ...(ca === undefined ? {} : { 'certificate-authority-data': Buffer.from(ca).toString('base64') }),
      ...(pluginConfig === undefined ? {} : { config: pluginConfig }),
    };
  }

  /** From base64 in the config, or from a file, which may be replaced while we run; the last good one is kept. */
  #pem(file: string | undefined, data: string | undefined): string | undefined {
    if (data) return Buffer.from(data, 'base64').toString();
    if (!file) return undefined;
    const known = this.#files.get(file);
    if (known !== undefined && performance.now() - known.readMs < FILE_AGE_MS) return known.text;
    try {
      this.#files.set(file, { text: readFileSync(file, 'utf8'), readMs: performance.now() });
    } catch (error) {
      if (known === undefined) throw error;
    }
    return this.#files.get(file)?.text;
  }
}

function ownAuthorization(user: User): string | undefined {
  if (user.token) return bearer(user.token);
  if (!user.username) return undefined;
  return `Basic ${Buffer.from(`${user.username}:${user.password ?? ''}`).toString('base64')}`;
}

function bearer(token: string | undefined): string | undefined {
  return token === undefined ? undefined : `Bearer ${token.trim()}`;
}

function messageOf(cause: unknown): string {
  return (cause instanceof Error ? cause.message : String(cause)).slice(0, 300);
}

function invalid(message: string, cause?: unknown): MeshError {
  return new MeshError('CONFIG_INVALID', message, { cause });
}
