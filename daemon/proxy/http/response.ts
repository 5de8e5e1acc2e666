/** The head of an app's HTTP/1 answer, for where it ends and what becomes of the connection. Pure. */
import { listed, parseFields, writeHead } from './fields.ts';
import type { Field } from './fields.ts';
import { responseFraming } from './framing.ts';
import type { Framing } from './framing.ts';
import type { HttpLimits } from './limits.ts';
import { refused } from './refusal.ts';
import type { Refused } from './refusal.ts';
import type { Request } from './request.ts';

export interface Response {
  readonly ok: true;
  readonly status: number;
  readonly framing: Framing;
  readonly keepAlive: boolean;
  /** As it goes to the client; `isLast` says that nothing more will be answered on the connection. */
  write(isLast: boolean): Buffer;
}

const STATUS_LINE = /^HTTP\/1\.([01]) ([1-9]\d\d)(?: ([\t\x20-\x7e\x80-\xff]*))?$/;

/** Reads the head of an answer to `request`. What a client could read in two ways is refused with 502. */
export function parseResponse(
  lines: readonly string[],
  request: Request,
  limits: HttpLimits,
): Response | Refused {
  const answer = readResponse(lines, request, limits);
  return answer.ok ? answer : refused(`the app's answer: ${answer.why}`, 502);
}

function readResponse(lines: readonly string[], request: Request, limits: HttpLimits): Response | Refused {
  const startLine = lines[0] ?? '';
  const [, minor, digits] = STATUS_LINE.exec(startLine) ?? [];
  if (digits === undefined) return refused('its status line is malformed');
  const fields = parseFields(lines.slice(1), limits);
  if ('ok' in fields) return fields;
  const status = Number(digits);
  const isOld = minor === '0';
  const framing = responseFraming(fields, isOld, status, request.http.method);
  if (!framing.ok) return framing;
  if (framing.kind === 'chunked' && request.isOld) return refused('it is chunked, for a client of HTTP/1.0');
  const switches = status === 101 ? problemOfSwitch(fields, request) : undefined;
  if (switches !== undefined) return switches;
  const connection = listed(fields, 'connection');
  const mayStay = isOld ? connection.includes('keep-alive') : !connection.includes('close');
  return {
    ok: true,
    status,
    framing,
    keepAlive: mayStay && framing.kind !== 'until-close',
    write: (isLast) => writeHead(startLine, isLast && mayStay ? closing(fields) : fields),
  };
}

/** An app may switch to what was offered to it, and to nothing else. */
function problemOfSwitch(fields: readonly Field[], { upgrades }: Request): Refused | undefined {
  const chosen = listed(fields, 'upgrade');
  const isOffered = chosen.length > 0 && chosen.every((protocol) => upgrades.includes(protocol));
  return isOffered ? undefined : refused('it switches to a protocol that was not offered');
}

function closing(fields: readonly Field[]): Field[] {
  const kept = fields.filter(({ key }) => key !== 'connection' && key !== 'keep-alive');
  return [...kept, { name: 'Connection', key: 'connection', value: 'close' }];
}
