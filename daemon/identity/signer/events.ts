/** Events (events.k8s.io/v1) on requests that the CA refused. Best effort: bounded, and never waited for. */
import { randomBytes } from 'node:crypto';
import type { KubeApi } from '../../kube/seams.ts';
import type { Clock } from '../clock.ts';
import { excerpt } from '../text.ts';
import { Pace } from './pace.ts';

/** The API takes Events about cluster-scoped objects in this namespace only. */
const CLUSTER_SCOPED = 'default';
const PACE = { burst: 32, perSecond: 1, maxSources: 1, maxWaitMs: 0 };
const MAX_IN_FLIGHT = 8;
const MAX_NOTE = 1_000;
const CONTROLLER = 'culvert.dev/ca';

/** What an Event is about. */
export interface Subject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly name: string;
  readonly uid: string;
  /** Left out where it has none. */
  readonly namespace?: string;
}

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

  /** Says that `subject` was denied or failed, unless too many have been said; conditions and metrics have them all. */
  refused(subject: Subject, outcome: 'denied' | 'failed', reason: string, detail: string): void {
    const { api, clock, onProblem } = this.#options;
    if (this.#inFlight >= MAX_IN_FLIGHT || !this.#pace.take('', clock.monotonicMs()).isReserved) return;
    this.#inFlight++;
    const path = `/apis/events.k8s.io/v1/namespaces/${subject.namespace ?? CLUSTER_SCOPED}/events`;
    api
      .request({ method: 'POST', path, body: this.#event(subject, outcome, reason, detail) })
      .catch((error: unknown) => onProblem(`an Event could not be written: ${excerpt(error)}`))
      .finally(() => this.#inFlight--);
  }

  #event(subject: Subject, outcome: 'denied' | 'failed', reason: string, detail: string): unknown {
    return {
      apiVersion: 'events.k8s.io/v1',
      kind: 'Event',
      metadata: {
        namespace: subject.namespace ?? CLUSTER_SCOPED,
        name: `culvert-ca.${randomBytes(8).toString('hex')}`,
      },
      eventTime: new Date(this.#options.clock.nowMs()).toISOString().replace('Z', '000Z'),
      type: 'Warning',
      reason,
      action: outcome === 'denied' ? 'Deny' : 'Fail',
      note: detail.slice(0, MAX_NOTE),
      reportingController: CONTROLLER,
      reportingInstance: this.#options.instance.slice(0, 128),
      regarding: subject,
    };
  }
}
