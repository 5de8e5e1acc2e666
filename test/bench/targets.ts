/** What the figures are held against: the targets of the issue, each from medians. */
import type { Figures } from './figures.ts';

/** Medians by candidate; a hole is left out. */
export type Medians = Readonly<Record<string, Figures>>;

export interface Verdict {
  readonly target: string;
  readonly value: number;
  readonly limit: number;
  /** `unknown`: one of the two was not measured. */
  readonly outcome: 'met' | 'missed' | 'unknown';
}

interface Target {
  readonly text: string;
  readonly value: (medians: Medians, ours: Figures) => number | undefined;
  readonly limit: (medians: Medians) => number | undefined;
}

const of = (name: string, key: string, factor = 1) => ({
  value: (_medians: Medians, ours: Figures): number | undefined => ours[key],
  limit: (medians: Medians): number | undefined => {
    const rival = medians[name]?.[key];
    return rival === undefined ? undefined : rival * factor;
  },
});

const fixed = (key: string, limit: number) => ({
  value: (_medians: Medians, ours: Figures): number | undefined => ours[key],
  limit: (): number => limit,
});

const TARGETS: readonly Target[] = [
  { text: "CPU s/GB, 1 stream ≤ 1.2 × HAProxy's", ...of('haproxy', 'cpuGb1', 1.2) },
  { text: "CPU s/GB, 8 streams ≤ 1.2 × HAProxy's", ...of('haproxy', 'cpuGb8', 1.2) },
  { text: "CPU µs a request, 64 connections ≤ ztunnel's", ...of('ztunnel', 'cpuReq64') },
  { text: "p50 µs, 1 connection ≤ 1.1 × HAProxy's", ...of('haproxy', 'p50x1', 1.1) },
  { text: 'CPU µs a new connection ≤ 250', ...fixed('cpuConn', 250) },
  {
    text: 'idle RSS MB ≤ 1.3 × bare Node (the larger side)',
    value: (_medians, { idleNear, idleFar }) =>
      idleNear === undefined || idleFar === undefined ? undefined : Math.max(idleNear, idleFar),
    limit: (medians) => {
      const bare = medians['ours']?.['bareMb'];
      return bare === undefined ? undefined : bare * 1.3;
    },
  },
  { text: 'label to enrolled, ms a pod ≤ 50', ...fixed('enrolPerPodMs', 50) },
];

/** One verdict per target, in the order. */
export function judge(medians: Medians): Verdict[] {
  return TARGETS.map(({ text, value, limit }) => {
    const is = value(medians, medians['ours'] ?? {}) ?? Number.NaN;
    const most = limit(medians) ?? Number.NaN;
    const isKnown = Number.isFinite(is) && Number.isFinite(most);
    const outcome = !isKnown ? 'unknown' : is <= most ? 'met' : 'missed';
    return { target: text, value: is, limit: most, outcome };
  });
}
