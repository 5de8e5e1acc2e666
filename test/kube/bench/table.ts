/** Rows as a Markdown table. */
import type { Figures, Row } from './measure.ts';

/** A heading and a line for each load. */
export function tableOf(rows: readonly Row[]): string {
  const lines = rows.map(({ load, unit, plain, mesh }) =>
    [
      load,
      rate(plain, unit),
      rate(mesh, unit),
      latency(plain, unit),
      latency(mesh, unit),
      String(plain.failed + mesh.failed),
    ].join(' | '),
  );
  const heading = 'between two nodes | no mesh | mesh | no mesh: p50, p99 µs | mesh: p50, p99 µs | failed';
  const rule = heading.replaceAll(/[^|]+/g, ' --- ').trim();
  return [heading, rule, ...lines].map((line) => `| ${line} |`).join('\n');
}

function rate({ rate: value }: Figures, unit: string): string {
  return `${Math.round(value).toLocaleString('en')} ${unit}`;
}

/** Bulk has no exchange that could be timed. */
function latency({ p50, p99 }: Figures, unit: string): string {
  return unit === 'MB/s' ? '–' : `${Math.round(p50)}, ${Math.round(p99)}`;
}
