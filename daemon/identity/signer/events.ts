/** Events (events.k8s.io/v1) on requests that the CA refused. Best effort: bounded, and never waited for. */
import { randomBytes } from 'node:crypto';
import type { KubeApi } from '../../kube/seams.ts';
import type { Clock } from '../clock.ts';
import { excerpt } from '../text.ts';
import { Pace } from './pace.ts';
import type { SigningRequest } from './request.ts';

/** Requests are cluster-scoped: the API takes Events about such objects in this namespace only. */
const PATH = '/apis/events.k8s.io/v1/namespaces/default/events';
const PACE = { burst: 32, perSecond: 1, maxSources: 1, maxWaitMs: 0 };
const MAX_IN_FLIGHT = 8;
const MAX_NOTE = 1_000;
const CONTROLLER = 'culvert.dev/ca';

export interface RefusalEventsOptions {
  readonly api: KubeApi;
  readonly clock: Clock;
  /** Our pod's name. */
  readonly instance: string;
  readonly onProblem: (reason: string) => void;
}

export class RefusalEvents {
  readonly #options: RefusalEventsOptions;
  readonly #pace = new Pace(PACE);
  #inFlight = 0;

  constructor(options: RefusalEventsOptions) {
    this.#options = options;
  }

  /** Says that `request` was denied or failed, unless too many have been said; conditions and metrics have them all. */
  refused(request: SigningRequest, outcome: 'denied' | 'failed', reason: string, detail: string): void {
    const { api, clock, onProblem } = this.#options;
    if (this.#inFlight >= MAX_IN_FLIGHT || !this.#pace.take('', clock.monotonicMs()).isReserved) return;
    this.#inFlight++;
    api
      .request({ method: 'POST', path: PATH, body: this.#event(request, outcome, reason, detail) })
      .catch((error: unknown) => onProblem(`an Event could not be written: ${excerpt(error)}`))
      .finally(() => this.#inFlight--);
  }

  #event(request: SigningRequest, outcome: 'denied' | 'failed', reason: string, detail: string): unknown {
    return {
      apiVersion: 'events.k8s.io/v1',
      kind: 'Event',
      metadata: { namespace: 'default', name: `culvert-ca.${randomBytes(8).toString('hex')}` },
      eventTime: new Date(this.#options.clock.nowMs()).toISOString().replace('Z', '000Z'),
      type: 'Warning',
      reason,
      action: outcome === 'denied' ? 'Deny' : 'Fail',
      note: detail.slice(0, MAX_NOTE),
      reportingController: CONTROLLER,
      reportingInstance: this.#options.instance.slice(0, 128),
      regarding: {
        apiVersion: 'certificates.k8s.io/v1',
        kind: 'CertificateSigningRequest',
        name: request.name,
        uid: request.uid,
      },
    };
  }
}
