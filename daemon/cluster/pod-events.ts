/**
 * Writes Events on pods (events.k8s.io/v1): the first of a kind at once, further ones as a count at most once a minute
 * for each pod and reason. The API is never flooded, nor waited for: what does not fit is told and dropped; counts wait.
 */
import { randomBytes } from 'node:crypto';
import { KubeError } from '../kube/seams.ts';
import type { ApiRequest, KubeApi } from '../kube/seams.ts';
import type { PodEvent } from '../observe/pod-events.ts';

export interface PodEventsOptions {
  readonly api: KubeApi;
  /** `culvert.dev/daemon`. */
  readonly controller: string;
  /** Which of them: the node's or the pod's name. */
  readonly instance: string;
  readonly nowMs: () => number;
  /** Something could not be written; Events are a courtesy, so it is only told. */
  readonly onDropped: (why: string) => void;
}

interface Series {
  readonly name: string;
  readonly namespace: string;
  /** Including what is not written yet. */
  count: number;
  unwritten: number;
  note: string;
  writtenMs: number;
  lastMs: number;
  /** The first one is on its way, or has been taken. */
  created: 'no' | 'sending' | 'yes';
}

const MINUTE = 60_000;
/** Kinds remembered; the one longest unused goes first. */
const MAX_SERIES = 2_048;
/** Requests in flight. */
const MAX_SENDING = 4;
/** New Events and counts of one daemon: a node with a thousand failing pods says so in its metrics. */
const MAX_A_MINUTE = 60;
/** Of these: counts can wait, and what is new is not to wait for them. */
const MAX_COUNTS_A_MINUTE = 30;
/** A series that has been silent for so long begins anew: API servers keep Events for an hour. */
const SERIES_AGE_MS = 30 * MINUTE;
const MAX_NOTE = 1_000;
const MAX_INSTANCE = 128;

export class PodEvents {
  readonly #options: PodEventsOptions;
  readonly #series = new Map<string, Series>();
  #sending = 0;
  #minute = { sinceMs: 0, written: 0, counts: 0 };

  constructor(options: PodEventsOptions) {
    this.#options = options;
  }

  /** Takes one; returns at once. Never throws. */
  note(event: PodEvent): void {
    const nowMs = this.#options.nowMs();
    const key = `${event.pod.uid} ${event.reason}`;
    const known = this.#series.get(key);
    if (known === undefined || nowMs - known.lastMs > SERIES_AGE_MS) {
      this.#begin(key, event, nowMs);
      return;
    }
    this.#series.delete(key);
    this.#series.set(key, known);
    known.count++;
    known.unwritten++;
    known.lastMs = nowMs;
    known.note = event.note;
    this.flush();
  }

  /** Writes the counts that are due; call it now and then, since the last of a burst has no successor to do it. */
  flush(): void {
    const nowMs = this.#options.nowMs();
    const minute = this.#minuteOf(nowMs);
    for (const [key, series] of this.#series) {
      if (this.#sending >= MAX_SENDING || minute.counts >= MAX_COUNTS_A_MINUTE) return;
      if (minute.written >= MAX_A_MINUTE) return;
      const isDue = series.unwritten > 0 && nowMs - series.writtenMs >= MINUTE;
      if (!isDue || series.created !== 'yes') continue;
      minute.counts++;
      minute.written++;
      void this.#update(key, series, nowMs);
    }
  }

  #minuteOf(nowMs: number): { written: number; counts: number } {
    if (nowMs - this.#minute.sinceMs >= MINUTE) this.#minute = { sinceMs: nowMs, written: 0, counts: 0 };
    return this.#minute;
  }

  #begin(key: string, event: PodEvent, nowMs: number): void {
    const minute = this.#minuteOf(nowMs);
    if (minute.written >= MAX_A_MINUTE || this.#sending >= MAX_SENDING * 4) {
      this.#options.onDropped(`more than ${MAX_A_MINUTE} Events a minute`);
      return;
    }
    minute.written++;
    const series: Series = {
      name: `${event.pod.name.slice(0, 200)}.${randomBytes(8).toString('hex')}`,
      namespace: event.pod.namespace,
      count: 1,
      unwritten: 0,
      note: event.note,
      writtenMs: nowMs,
      lastMs: nowMs,
      created: 'sending',
    };
    this.#series.delete(key);
    this.#series.set(key, series);
    const [oldest] = this.#series.keys();
    if (this.#series.size > MAX_SERIES && oldest !== undefined) this.#series.delete(oldest);
    void this.#create(key, series, event, nowMs);
  }

  async #create(key: string, series: Series, { pod, reason, note }: PodEvent, nowMs: number): Promise<void> {
    const sent = await this.#send({
      method: 'POST',
      path: `/apis/events.k8s.io/v1/namespaces/${series.namespace}/events`,
      body: {
        apiVersion: 'events.k8s.io/v1',
        kind: 'Event',
        metadata: { name: series.name, namespace: series.namespace },
        eventTime: microTime(nowMs),
        reportingController: this.#options.controller,
        reportingInstance: this.#options.instance.slice(0, MAX_INSTANCE),
        action: 'Guard',
        reason,
        regarding: { apiVersion: 'v1', kind: 'Pod', namespace: pod.namespace, name: pod.name, uid: pod.uid },
        note: note.slice(0, MAX_NOTE),
        type: 'Warning',
      },
    });
    if (sent === 'taken') series.created = 'yes';
    else this.#forget(key, series);
  }

  /** The next one of the kind is a new Event. */
  #forget(key: string, series: Series): void {
    if (this.#series.get(key) === series) this.#series.delete(key);
  }

  async #update(key: string, series: Series, nowMs: number): Promise<void> {
    const { unwritten } = series;
    series.unwritten = 0;
    series.writtenMs = nowMs;
    const sent = await this.#send({
      method: 'PATCH',
      patch: 'application/merge-patch+json',
      path: `/apis/events.k8s.io/v1/namespaces/${series.namespace}/events/${series.name}`,
      body: {
        series: { count: series.count, lastObservedTime: microTime(series.lastMs) },
        note: series.note.slice(0, MAX_NOTE),
      },
    });
    // Its time was up during an outage, or somebody deleted it.
    if (sent === 'absent') this.#forget(key, series);
    else if (sent === 'failed') series.unwritten += unwritten;
  }

  async #send(request: ApiRequest): Promise<'taken' | 'absent' | 'failed'> {
    this.#sending++;
    try {
      await this.#options.api.request(request);
      return 'taken';
    } catch (error) {
      this.#options.onDropped(error instanceof Error ? error.message : String(error));
      return error instanceof KubeError && error.status === 404 ? 'absent' : 'failed';
    } finally {
      this.#sending--;
    }
  }
}

/** RFC 3339 with microseconds, as the API's MicroTime wants it. */
function microTime(ms: number): string {
  return new Date(ms).toISOString().replace('Z', '000Z');
}
