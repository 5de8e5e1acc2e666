/** The head of an HTTP/2 request: what is judged, and what goes upstream. Pure; nghttp2 has checked names and values. */
import type { IncomingHttpHeaders, OutgoingHttpHeaders } from 'node:http2';
import type { HttpRequest } from '../../mesh/policy/model.ts';
import type { PathNormalization } from '../../mesh/policy/path.ts';
import { refused } from './refusal.ts';
import type { Refused } from './refusal.ts';
import { METHOD } from './request.ts';
import { isHost, readTarget } from './target.ts';

export interface H2Request {
  readonly ok: true;
  readonly http: HttpRequest;
  readonly headers: OutgoingHttpHeaders;
  readonly isGrpc: boolean;
}

/** Fields of HTTP/1 connections: without meaning here, unless an app passes them on. */
const OF_CONNECTIONS = ['connection', 'keep-alive', 'proxy-connection', 'transfer-encoding', 'upgrade'];
const GRPC = /^application\/grpc($|[+;])/i;

/**
 * Reads a request. An extended CONNECT (RFC 8441) is judged as the GET that it would be in HTTP/1.
 * @param names every name that came, to tell what came twice.
 */
export function parseH2Request(
  headers: IncomingHttpHeaders,
  names: readonly string[],
  normalization: PathNormalization,
): H2Request | Refused {
  const { ':method': method = '', ':path': raw = '', ':scheme': scheme, ':protocol': protocol } = headers;
  const isExtended = method === 'CONNECT' && protocol !== undefined;
  if (method === 'CONNECT' && !isExtended) return refused('CONNECT', 405);
  if (!METHOD.test(method)) return refused('a method in lower case, or none');
  if (scheme !== 'http' && scheme !== 'https') return refused('a scheme other than http');
  if (OF_CONNECTIONS.some((name) => headers[name] !== undefined))
    return refused('a field that HTTP/2 does not have');
  const host = readAuthority(headers, names);
  if (typeof host !== 'string') return host;
  // The absolute form is HTTP/1's.
  if (raw !== '*' && !raw.startsWith('/')) return refused('a :path that is none');
  const judgedMethod = isExtended ? 'GET' : method;
  const target = readTarget(raw, judgedMethod, host, normalization);
  if (!target.ok) return target;
  return {
    ok: true,
    http: { method: judgedMethod, path: target.path, host, headers: headerMap(headers) },
    headers: { ...headers, host: undefined, ':authority': host, ':path': target.target },
    isGrpc: GRPC.test(headers['content-type'] ?? ''),
  };
}

function readAuthority(headers: IncomingHttpHeaders, names: readonly string[]): string | Refused {
  if (names.filter((name) => name === 'host').length > 1) return refused('host comes twice');
  const { ':authority': authority, host } = headers;
  if (authority !== undefined && host !== undefined && authority.toLowerCase() !== host.toLowerCase())
    return refused(':authority and host name two hosts');
  const named = authority ?? host;
  if (named === undefined) return refused('no :authority');
  return isHost(named) ? named : refused('an :authority that is neither name nor address');
}

function headerMap(headers: IncomingHttpHeaders): Map<string, string> {
  const map = new Map<string, string>();
  for (const [name, value] of Object.entries(headers)) {
    if (value === undefined || name.startsWith(':')) continue;
    map.set(name, typeof value === 'string' ? value : value.join(','));
  }
  return map;
}
