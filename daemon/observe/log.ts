/**
 * The log: one JSON object a line on stdout, from every thread. Each thread writes to file descriptor 1 itself and
 * synchronously: nothing is lost when a thread dies, and no thread waits for the main one.
 */
import { pino } from 'pino';
import type { DestinationStream, Logger } from 'pino';
import type { LogLevel } from '../errors.ts';

export type Log = Logger;

export interface LogOptions {
  /** `main`, `enrolment`, `worker-0`…: a field of every line. */
  readonly thread: string;
  readonly level: 'trace' | 'debug' | 'info' | 'warn' | 'error';
  /** Where lines go; stdout when left out. */
  readonly destination?: DestinationStream;
}

/** Fields that are never written, at any depth; and any PEM private key, also inside an error's message. */
const SECRET_FIELD = /"(keyPem|privateKey|token|csr|authorization)":"(?:[^"\\]|\\.)*"/gi;
const PEM_KEY = /-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|(?="|$))/g;

/** A logger for one thread. Messages are constant, data is in fields; secrets are replaced. */
export function createLog(options: LogOptions): Log {
  const destination = options.destination ?? pino.destination({ fd: 1, sync: true });
  const log = pino(
    {
      level: options.level,
      base: { thread: options.thread },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      hooks: { streamWrite: withoutSecrets },
    },
    destination,
  );
  outlets.set(log, { destination, thread: JSON.stringify(options.thread) });
  return log;
}

/** Where the lines of a log go, for those who write many at once. */
const outlets = new WeakMap<Log, { readonly destination: DestinationStream; readonly thread: string }>();

/** Fields that are undefined are left out. */
export type LogFields = Readonly<Record<string, string | number | undefined>>;

export interface LogLine {
  readonly level: LogLevel;
  readonly fields: LogFields;
}

/** A pipe takes this much whole: lines of other threads never land in the middle (PIPE_BUF, pipe(7)). */
const WHOLE_BYTES = 4_096;

/**
 * Writes a line for each of `lines`, as the log itself would, at a tenth of the cost: several lines in one system call,
 * each put together without looking at its fields one by one.
 */
export function writeLines(log: Log, lines: readonly LogLine[], message: string): void {
  const outlet = outlets.get(log);
  if (outlet === undefined) throw new TypeError('not a log of createLog');
  const time = new Date().toISOString();
  const end = `"msg":${JSON.stringify(message)}}\n`;
  let gathered = '';
  let bytes = 0;
  const flush = (): void => {
    if (gathered !== '') outlet.destination.write(withoutSecrets(gathered));
    gathered = '';
    bytes = 0;
  };
  for (const { level, fields } of lines) {
    if (!log.isLevelEnabled(level)) continue;
    const own = JSON.stringify(fields).slice(1, -1);
    const line = `{"level":"${level}","time":"${time}","thread":${outlet.thread},${own}${own === '' ? '' : ','}${end}`;
    const length = Buffer.byteLength(line);
    if (bytes + length > WHOLE_BYTES) flush();
    gathered += line;
    bytes += length;
  }
  flush();
}

/** On the finished line: pino's own redaction clones every object, which costs more than all the rest of a line. */
function withoutSecrets(line: string): string {
  const fields = line.replace(SECRET_FIELD, '"$1":"[redacted]"');
  return fields.includes('PRIVATE KEY') ? fields.replace(PEM_KEY, '[redacted]') : fields;
}

/** Control, bidirectional, zero-width and lone surrogate characters: they can forge a line or hide in one. */
const UNSAFE = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]|[\ud800-\udfff]/gu;

/** `text` from the wire, fit for a log or a terminal: at most `max` characters, unsafe ones as `\u{hex}`. */
export function wireText(text: string, max = 256): string {
  const safe = text
    .slice(0, max)
    .replace(UNSAFE, (unsafe) => `\\u{${(unsafe.codePointAt(0) ?? 0).toString(16)}}`);
  return text.length > max ? `${safe}… (${text.length} characters)` : safe;
}
