/**
 * The log: one JSON object a line on stdout, from every thread. Each thread writes to file descriptor 1 itself and
 * synchronously: nothing is lost when a thread dies, and no thread waits for the main one.
 */
import { pino } from 'pino';
import type { DestinationStream, Logger } from 'pino';

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
  return pino(
    {
      level: options.level,
      base: { thread: options.thread },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      hooks: { streamWrite: withoutSecrets },
    },
    options.destination ?? pino.destination({ fd: 1, sync: true }),
  );
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
