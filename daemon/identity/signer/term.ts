/** What a replica of `culvert-ca` does from the moment that it leads until it leads no more. */
import type { Config } from '../../config.ts';
import { Reflector } from '../../kube/reflector.ts';
import type { KubeApi, WatchOptions, Watched } from '../../kube/seams.ts';
import type { Log } from '../../observe/log.ts';
import type { Metrics } from '../../observe/metrics.ts';
import type { Clock } from '../clock.ts';
import { Authority } from './authority.ts';
import { RefusalEvents } from './events.ts';
import type { SigningCa } from './issuer.ts';
import { Signer } from './signer.ts';

export interface TermOptions {
  readonly config: Pick<Config, 'podNamespace' | 'trustDomain' | 'certLifetime' | 'daemonSet'>;
  /** Service account of the daemons. */
  readonly account: string;
  readonly api: KubeApi;
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Pick<Metrics, 'set' | 'add'>;
  /** Our pod's name. */
  readonly instance: string;
}

/** Signs, publishes and rotates until `term` aborts; from then on nothing more is written. Rejects on a defect only. */
export async function serveTerm(term: AbortSignal, options: TermOptions): Promise<void> {
  const { log, metrics, instance } = options;
  const watch = <T>(what: WatchOptions<T>): Watched<T> => new Reflector(what);
  const authority = new Authority({
    ...options,
    watch,
    namespace: options.config.podNamespace,
    trustDomain: options.config.trustDomain,
    onLook: (ca) => told(ca),
  });
  const signer = makeSigner(options, watch, authority);
  const told = (ca: SigningCa | string): void => {
    const endsMs = typeof ca === 'string' ? 0 : ca.notAfterMs;
    metrics.set('culvert_ca_expiry_timestamp_seconds', {}, endsMs / 1_000);
    metrics.set('culvert_csr_waiting', {}, signer.waiting);
  };
  const ended = Promise.withResolvers<undefined>();
  const end = (): void => {
    signer.stop();
    authority.stop();
    ended.resolve(undefined);
  };
  term.addEventListener('abort', end, { once: true });
  if (term.aborted) end();
  log.info({ instance }, 'this replica leads');
  metrics.set('culvert_ca_leader', {}, 1);
  authority.start();
  signer.start();
  await ended.promise;
  metrics.set('culvert_ca_leader', {}, 0);
  log.info({ reason: String(term.reason) }, 'this replica leads no more');
  await Promise.all([signer[Symbol.asyncDispose](), authority[Symbol.asyncDispose]()]);
}

function makeSigner(
  options: TermOptions,
  watch: <T>(what: WatchOptions<T>) => Watched<T>,
  authority: Authority,
): Signer {
  const { api, clock, log, metrics, config, instance, account } = options;
  const onProblem = (reason: string): void => log.warn({ reason }, 'something of the CA did not work');
  return new Signer({
    api,
    clock,
    log,
    watch,
    rules: {
      trustDomain: config.trustDomain,
      namespace: config.podNamespace,
      serviceAccount: account,
      maxLifetimeMs: config.certLifetime,
    },
    daemonSet: config.daemonSet,
    events: new RefusalEvents({ api, clock, instance, onProblem }),
    ca: () => authority.ca(),
    onOutcome: (outcome, reason) => metrics.add('culvert_csr_decisions_total', { outcome, reason }),
  });
}
