/** The results as aligned text. */
import { GROUPS, SINGLES } from './figures.ts';
import type { Figure } from './figures.ts';
import type { Hole } from './candidates/candidate.ts';
import type { Medians, Verdict } from './targets.ts';

export interface Report {
  readonly medians: Medians;
  /** In the order in which they are printed. */
  readonly candidates: readonly string[];
  readonly holes: readonly Hole[];
  readonly parts: readonly string[];
}

/** Columns as wide as their widest cell; the first to the left, the others to the right. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of rows)
    for (const [column, cell] of row.entries()) widths[column] = Math.max(widths[column] ?? 0, cell.length);
  const line = (row: readonly string[]): string =>
    row
      .map((cell, column) =>
        column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0),
      )
      .join('  ')
      .trimEnd();
  return rows.map(line).join('\n');
}

/** Every group that was measured, a row for each candidate; one that is not there has dashes and its reason. */
export function renderGroups(report: Report): string {
  const groups = GROUPS.filter(({ name }) => report.parts.includes(name));
  return groups
    .map(({ title, figures }) => {
      const head = ['', ...figures.map((figure) => figure.title)];
      const rows = report.candidates.map((name) => [name, ...cells(figures, report.medians[name])]);
      return `${title}\n${table([head, ...rows])}\n${reasons(report)}`;
    })
    .join('\n');
}

/** Figures of ours alone. */
export function renderSingles(report: Report): string {
  const ours = report.medians['ours'];
  const rows = SINGLES.filter(({ group }) => report.parts.includes(group)).map((single) => [
    single.title,
    ...cells([single], ours),
  ]);
  return rows.length === 0 ? '' : `Ours alone\n${table(rows)}\n`;
}

/** The targets, met or missed. */
export function renderVerdicts(verdicts: readonly Verdict[]): string {
  const head = ['Target', 'ours', 'limit', ''];
  const rows = verdicts.map(({ target, value, limit, outcome }) => [
    target,
    number(value, 3),
    number(limit, 3),
    outcome,
  ]);
  return `${table([head, ...rows])}\n`;
}

function reasons(report: Report): string {
  return report.holes.map(({ name, reason }) => `  ${name}: ${reason}\n`).join('');
}

function cells(figures: readonly Figure[], values: Readonly<Record<string, number>> | undefined): string[] {
  return figures.map(({ key, digits }) => number(values?.[key] ?? Number.NaN, digits));
}

function number(value: number, digits: number): string {
  return Number.isFinite(value)
    ? value.toLocaleString('en-US', { minimumFractionDigits: digits, maximumFractionDigits: digits })
    : '-';
}
