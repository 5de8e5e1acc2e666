/** How the story reads: headings, progress lines for what takes time, claims with a tick or a cross. */

const isTerminal = process.stdout.isTTY;
const paint = (code: number, text: string): string => (isTerminal ? `\x1b[${code}m${text}\x1b[0m` : text);

let failures = 0;

/** How many claims were false so far. */
export function failedClaims(): number {
  return failures;
}

export function heading(text: string): void {
  console.log(`\n${paint(1, text)}`);
}

export function say(text: string): void {
  console.log(`  ${text}`);
}

/** A line of detail, in grey. */
export function detail(name: string, value: string): void {
  console.log(`    ${paint(90, name.padEnd(12))} ${value}`);
}

/** A command that a person would type. */
export function command(text: string): void {
  console.log(`  ${paint(36, `$ ${text}`)}`);
}

/** Prints `text` as true or false; `instead` says what was there when it is false. */
export function claim(text: string, isTrue: boolean, instead = ''): void {
  if (isTrue) console.log(`  ${paint(32, '✓')} ${text}`);
  else console.log(`  ${paint(31, '✗')} ${text}${instead === '' ? '' : `: ${instead}`}`);
  if (!isTrue) failures += 1;
}

/** Does `work` behind a progress line that counts seconds. */
export async function progress<T>(text: string, work: () => Promise<T>): Promise<T> {
  const started = performance.now();
  const seconds = (): string => `${((performance.now() - started) / 1000).toFixed(1)} s`;
  const draw = (): void => void process.stdout.write(`\r  … ${text} ${paint(90, seconds())}`);
  const timer = isTerminal ? setInterval(draw, 100) : undefined;
  try {
    return await work();
  } finally {
    clearInterval(timer);
    process.stdout.write(`${isTerminal ? '\r' : ''}  · ${text} ${paint(90, seconds())}\n`);
  }
}
