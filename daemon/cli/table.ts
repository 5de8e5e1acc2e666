/** Text tables that line up, and the few forms in which commands show numbers. */

export type Colour = 'green' | 'yellow' | 'red';

export interface Cell {
  readonly text: string;
  readonly colour: Colour;
}

const CODES: Readonly<Record<Colour, string>> = { green: '32', yellow: '33', red: '31' };

/** A table with upper-case headings, columns two spaces apart, nothing behind the last column. Ends with a newline. */
export function table(
  headings: readonly string[],
  rows: readonly (readonly (string | Cell)[])[],
  colour: boolean,
): string {
  const lines = [headings, ...rows].map((row) => row.map(toCell));
  const widths = headings.map((_, column) =>
    Math.max(...lines.map((line) => line[column]?.text.length ?? 0)),
  );
  return lines
    .map((line) => `${line.map((cell, i) => show(cell, widths[i] ?? 0, i, line, colour)).join('')}\n`)
    .join('');
}

function toCell(value: string | Cell): { text: string; colour: Colour | undefined } {
  const cell = typeof value === 'string' ? { text: value, colour: undefined } : value;
  const text = printable(cell.text);
  return { text: text === '' ? '-' : text, colour: cell.colour };
}

function show(
  cell: { text: string; colour: Colour | undefined },
  width: number,
  column: number,
  line: readonly unknown[],
  colour: boolean,
): string {
  const padding = column === line.length - 1 ? '' : ' '.repeat(width - cell.text.length + 2);
  return paint(cell.text, colour ? cell.colour : undefined) + padding;
}

/** `text` in a colour, or as it is. */
export function paint(text: string, colour: Colour | undefined): string {
  return colour === undefined ? text : `\u001b[${CODES[colour]}m${text}\u001b[0m`;
}

/** Without characters that could move the cursor or forge a line. */
export function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu, '?');
}

/** The same of a text of several lines, which stay. */
export function printableLines(text: string): string {
  return text.split('\n').map(printable).join('\n');
}

const UNITS: readonly (readonly [number, string])[] = [
  [86_400_000, 'd'],
  [3_600_000, 'h'],
  [60_000, 'm'],
  [1_000, 's'],
];

/** A span in its two largest units: `3d4h`, `5m2s`, `0s`. */
export function span(ms: number): string {
  if (ms < 0) return `-${span(-ms)}`;
  const first = UNITS.findIndex(([size]) => ms >= size);
  if (first < 0) return '0s';
  let rest = ms;
  const parts = UNITS.slice(first, first + 2).map(([size, name]) => {
    const count = Math.floor(rest / size);
    rest -= count * size;
    return count === 0 ? '' : `${count}${name}`;
  });
  return parts.join('');
}
