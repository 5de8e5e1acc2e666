/** The head of an HTTP/1 request: what is judged, and what goes upstream. Pure. */
import type { HttpRequest } from '../../mesh/policy/model.ts';
import type { PathNormalization } from '../../mesh/policy/path.ts';
import { fieldMap, isToken, listed, only, parseFields, writeHead } from './fields.ts';
import type { Field } from './fields.ts';
import { requestFraming } from './framing.ts';
import type { Framing } from './framing.ts';
import type { HttpLimits } from './limits.ts';
import { refused } from './refusal.ts';
import type { Refused } from './refusal.ts';
import { isHost, readTarget } from './target.ts';

export interface Request {
  readonly ok: true;
  readonly http: HttpRequest;
  readonly isOld: boolean;
  readonly framing: Framing;
  /** The client may ask again on this connection. */
  readonly keepAlive: boolean;
  readonly expectsContinue: boolean;
  /** Protocols to which the app may switch, in lower case. */
  readonly upgrades: readonly string[];
  /** As it goes upstream. */
  readonly head: Buffer;
}

/** Methods are told apart by case, and no registered one has lower case: an app that forgives it must not get it. */
export const METHOD = /^[A-Z][A-Z0-9_-]{0,31}$/;
const START_LINE = /^([^ ]+) ([^ ]+) HTTP\/(\d+(?:\.\d+)?)$/;
/** HTTP under another name, or TLS: requests in it would go unjudged. */
const HIDING = /^(h2c?|http|tls|ssl|quic|h3)([^a-z].*)?$/;

/** What a reader behind the app's own gateway would miss if Connection named it. */
const LOAD_BEARING: ReadonlySet<string> = new Set(['content-length', 'transfer-encoding', 'host']);

/** Reads a request's head. Everything that two readers could read in two ways is refused. */
export function parseRequest(
  lines: readonly string[],
  normalization: PathNormalization,
  limits: HttpLimits,
): Request | Refused {
  const [, method = '', raw = '', version = ''] = START_LINE.exec(lines[0] ?? '') ?? [];
  if (!isToken(method) || (version !== '1.1' && version !== '1.0'))
    return refused('the request line is malformed');
  if (method === 'CONNECT') return refused('CONNECT', 405);
  if (!METHOD.test(method)) return refused('a method in lower case, or none');
  const fields = parseFields(lines.slice(1), limits);
  if ('ok' in fields) return fields;
  const isOld = version === '1.0';
  const host = readHost(fields, isOld);
  if (typeof host === 'object') return host;
  const target = readTarget(raw, method, host, normalization);
  if (!target.ok) return target;
  const framing = requestFraming(fields, isOld);
  if (!framing.ok) return framing;
  const upgrades = listed(fields, 'upgrade');
  const isHiding = upgrades.some((protocol) => HIDING.test(protocol));
  const connection = listed(fields, 'connection');
  if (connection.some((name) => LOAD_BEARING.has(name)))
    return refused('Connection takes away what frames it');
  const sent = isHiding ? withoutUpgrade(fields) : fields;
  return {
    ok: true,
    http: { method, path: target.path, host, headers: fieldMap(sent) },
    isOld,
    framing,
    keepAlive: isOld ? connection.includes('keep-alive') : !connection.includes('close'),
    expectsContinue: listed(fields, 'expect').includes('100-continue'),
    upgrades: isHiding || isOld ? [] : upgrades,
    head: writeHead(`${method} ${target.target} HTTP/${version}`, sent),
  };
}

function readHost(fields: readonly Field[], isOld: boolean): string | undefined | Refused {
  const host = only(fields, 'host');
  if (typeof host === 'object') return host;
  if (host === undefined) return isOld ? undefined : refused('no Host');
  return isHost(host) ? host : refused('a Host that is neither name nor address');
}

/** The same request without its offer to switch protocols. */
function withoutUpgrade(fields: readonly Field[]): Field[] {
  const kept = fields.filter(({ key }) => key !== 'upgrade' && key !== 'http2-settings');
  return kept.flatMap((field) => {
    if (field.key !== 'connection') return [field];
    const members = field.value.split(',').map((member) => member.trim());
    const value = members.filter((member) => !/^(upgrade|http2-settings)$/i.test(member)).join(', ');
    return value === '' ? [] : [{ ...field, value }];
  });
}
