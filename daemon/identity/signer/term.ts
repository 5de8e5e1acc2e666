/** What a replica of `culvert-ca` does from the moment that it leads until it leads no more. */
import type { Config } from '../../config.ts';
import { Reflector } from '../../kube/reflector.ts';
import type { KubeApi, WatchOptions, Watched } from '../../kube/seams.ts';
import type { Log } from '../../observe/log.ts';
import type { Metrics } from '../../observe/metrics.ts';
import type { Clock } from '../clock.ts';
import { parseBundle, parseIssuer } from '../issuer-ref.ts';
import { Approver } from './approver.ts';
import { Authority } from './authority.ts';
import type { DenyReason } from './decide.ts';
import { RefusalEvents } from './events.ts';
import { IssuerRoots } from './issuer-roots.ts';
import { Janitor } from './janitor.ts';
import { Signer } from './signer.ts';
import type { Outcome } from './signer.ts';

export interface TermOptions {
  readonly config: Pick<
    Config,
    | 'podNamespace'
    | 'trustDomain'
    | 'certLifetime'
    | 'daemonSet'
    | 'certSource'
    | 'certIssuer'
    | 'certIssuerBundle'
    | 'certCaUsers'
  >;
  /** Service account of the daemons. */
  readonly account: string;
  readonly api: KubeApi;
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Pick<Metrics, 'set' | 'add'>;
  /** Our pod's name. */
  readonly instance: string;
}

/** What acts while we lead. */
interface Part extends AsyncDisposable {
  start(): void;
  stop(): void;
}

/** Signs or approves, publishes and rotates until `term` aborts; from then on nothing more is written. Rejects on a defect only. */
export async function serveTerm(term: AbortSignal, options: TermOptions): Promise<void> {
  const { log, metrics, instance, config } = options;
  const parts = config.certSource === 'cert-manager' ? approving(options) : signing(options);
  const ended = Promise.withResolvers<undefined>();
  const end = (): void => {
    for (const part of parts) part.stop();
    ended.resolve(undefined);
  };
  term.addEventListener('abort', end, { once: true });
  if (term.aborted) end();
  log.info({ instance }, 'this replica leads');
  metrics.set('culvert_ca_leader', {}, 1);
  for (const part of parts) part.start();
  await ended.promise;
  metrics.set('culvert_ca_leader', {}, 0);
  log.info({ reason: String(term.reason) }, 'this replica leads no more');
  await Promise.all(parts.map((part) => part[Symbol.asyncDispose]()));
}

/** A CA of our own. */
function signing(options: TermOptions): readonly Part[] {
  const shared = sharedOf(options);
  const authority = new Authority({
    ...shared,
    onLook: (ca) => tell(options, typeof ca === 'string' ? 0 : ca.notAfterMs, signer.waiting),
  });
  const signer: Signer = new Signer({ ...shared, ca: () => authority.ca() });
  return [authority, signer];
}

/** An issuer of cert-manager's. @throws MeshError CONFIG_INVALID */
function approving(options: TermOptions): readonly Part[] {
  const { certIssuer, certIssuerBundle, certCaUsers: caUsers } = options.config;
  const issuer = parseIssuer(certIssuer);
  const shared = sharedOf(options);
  const roots = new IssuerRoots({
    ...shared,
    bundle: parseBundle(certIssuerBundle),
    onLook: (end) => tell(options, typeof end === 'string' ? 0 : end, approver.waiting),
  });
  const approver: Approver = new Approver({
    ...shared,
    rules: { ...shared.rules, caUsers },
    issuer,
    hold: () => roots.hold(),
  });
  const { api, clock, log, namespace } = shared;
  const daemon = `system:serviceaccount:${namespace}:${options.account}`;
  const janitor = new Janitor({ api, clock, log, scope: { issuer, namespace }, daemon });
  return [roots, approver, janitor];
}

function tell({ metrics }: TermOptions, endsMs: number, waiting: number): void {
  metrics.set('culvert_ca_expiry_timestamp_seconds', {}, endsMs / 1_000);
  metrics.set('culvert_csr_waiting', {}, waiting);
}

function sharedOf({ api, clock, log, metrics, config, instance, account }: TermOptions) {
  const onProblem = (reason: string): void => log.warn({ reason }, 'something of the CA did not work');
  const { podNamespace: namespace, trustDomain, daemonSet, certLifetime: maxLifetimeMs } = config;
  return {
    ...{ api, clock, log, namespace, trustDomain, daemonSet },
    watch: <T>(what: WatchOptions<T>): Watched<T> => new Reflector(what),
    rules: { trustDomain, namespace, serviceAccount: account, maxLifetimeMs },
    events: new RefusalEvents({ api, clock, instance, onProblem }),
    onOutcome: (outcome: Outcome, reason: DenyReason | '') =>
      metrics.add('culvert_csr_decisions_total', { outcome, reason }),
  };
}
