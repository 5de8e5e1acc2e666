/** What each path of the three servers answers. GET changes nothing; the one change is a POST. */
import type { AdminBackend } from './backend.ts';

export interface Answer {
  readonly status: number;
  /** Text as it is, anything else as JSON. */
  readonly body: unknown;
  readonly contentType?: string;
  readonly allow?: string;
}

export interface Route {
  readonly method: 'GET' | 'POST';
  readonly answer: () => Promise<Answer>;
}

export type Routes = ReadonlyMap<string, Route>;

export interface RouteSources {
  readonly backend: AdminBackend;
  /** Why the process should be killed; empty: it lives. */
  readonly dead: () => readonly string[];
  /** Why it is not ready; empty: it is. A dead API server is no reason, once the state has been complete. */
  readonly notReady: () => readonly string[];
  readonly metrics: { readonly text: () => Promise<string>; readonly contentType: string };
}

/** 15021. `/healthz/ready` is where Istio's probes look. */
export function healthRoutes(sources: Pick<RouteSources, 'dead' | 'notReady'>): Routes {
  const ready = get(() => probe('ready', sources.notReady()));
  return new Map([
    ['/healthz', get(() => probe('ok', sources.dead()))],
    ['/readyz', ready],
    ['/healthz/ready', ready],
  ]);
}

/** 15020. */
export function metricsRoutes({ metrics }: Pick<RouteSources, 'metrics'>): Routes {
  const answer = async (): Promise<Answer> => ({
    status: 200,
    body: await metrics.text(),
    contentType: metrics.contentType,
  });
  return new Map([['/metrics', { method: 'GET', answer }]]);
}

/** 15000, loopback only. */
export function adminRoutes({ backend }: RouteSources): Routes {
  const json = (data: () => Promise<unknown>): Route => ({
    method: 'GET',
    answer: async () => ({ status: 200, body: await data() }),
  });
  return new Map<string, Route>([
    ['/status', json(() => backend.status())],
    ['/connections', json(() => backend.connections())],
    ['/certs', json(() => backend.certificates())],
    ['/config', json(() => backend.config())],
    ['/uninstall', { method: 'POST', answer: () => uninstall(backend) }],
  ]);
}

async function uninstall(backend: AdminBackend): Promise<Answer> {
  await backend.uninstall();
  return { status: 202, body: { accepted: true, watch: '/status' } };
}

function get(answer: () => Answer): Route {
  return { method: 'GET', answer: () => Promise.resolve(answer()) };
}

function probe(well: string, reasons: readonly string[]): Answer {
  return reasons.length === 0
    ? { status: 200, body: `${well}\n` }
    : { status: 503, body: `${reasons.join('\n')}\n` };
}
