/** All requests of the corpus; here those whose head is at issue. */
import { becomes, GET, head, HIDDEN, HOST, refused, same } from './case.ts';
import type { RequestCase } from './case.ts';
import { FRAMING_CASES } from './framing.ts';

const LINES: readonly RequestCase[] = [
  refused('lines that end with LF', `GET / HTTP/1.1\nHost: app\n\n`),
  refused('one line of the head that ends with LF', `GET / HTTP/1.1\r\nHost: app\nX: y\r\n\r\n`),
  refused('an empty line that is a bare LF', `GET / HTTP/1.1\r\n${HOST}\n${HIDDEN}`),
  refused('an empty line that is LF CR LF', `GET / HTTP/1.1\r\nHost: app\n\r\n${HIDDEN}`),
  refused('a bare CR in a value', `GET / HTTP/1.1\r\n${HOST}X: a\rb\r\n\r\n`),
  refused('CR CR LF', `GET / HTTP/1.1\r\n${HOST}X: a\r\r\n\r\n`),
  refused('a folded field', `GET / HTTP/1.1\r\n${HOST}X: a\r\n b\r\n\r\n`),
  refused('a folded field with a tab', `GET / HTTP/1.1\r\n${HOST}X: a\r\n\tb\r\n\r\n`),
  refused('a space before the first field', `GET / HTTP/1.1\r\n Host: app\r\n\r\n`),
  refused('a space before the colon', `GET / HTTP/1.1\r\nHost : app\r\n\r\n`),
  refused('a field without colon', `GET / HTTP/1.1\r\n${HOST}X\r\n\r\n`),
  refused('a field without name', `GET / HTTP/1.1\r\n${HOST}: x\r\n\r\n`),
  refused('a NUL in a name', `GET / HTTP/1.1\r\n${HOST}X\x00: y\r\n\r\n`),
  refused('a NUL in a value', `GET / HTTP/1.1\r\n${HOST}X: \x00\r\n\r\n`),
  refused('a DEL in a value', `GET / HTTP/1.1\r\n${HOST}X: \x7f\r\n\r\n`),
  refused('a slash in a name', `GET / HTTP/1.1\r\n${HOST}X/Y: z\r\n\r\n`),
  refused('a name that is not ASCII', `GET / HTTP/1.1\r\n${HOST}X\xe4: z\r\n\r\n`),
  refused('a hundred and one fields', `GET / HTTP/1.1\r\n${HOST}${'X: y\r\n'.repeat(100)}\r\n`, 431),
  refused('a head of 64 KiB', `GET / HTTP/1.1\r\n${HOST}X: ${'y'.repeat(65_536)}\r\n\r\n`, 431),
  { name: 'an empty line between requests', bytes: `${GET}\r\n${GET}`, forwarded: [GET], refused: 400 },
  same('a value that is not ASCII', `GET / HTTP/1.1\r\n${HOST}X: \xe4\xc3\xa4\r\n\r\n`),
  becomes(
    'space around a value',
    `GET / HTTP/1.1\r\n${HOST}X:\t a b \t\r\nY:\r\n\r\n`,
    `GET / HTTP/1.1\r\n${HOST}X: a b\r\nY: \r\n\r\n`,
  ),
];

const START_LINES: readonly RequestCase[] = [
  refused('two spaces before the target', `GET  / HTTP/1.1\r\n${HOST}\r\n`),
  refused('two spaces before the version', `GET /  HTTP/1.1\r\n${HOST}\r\n`),
  refused('a space in the target', `GET /a b HTTP/1.1\r\n${HOST}\r\n`),
  refused('a request in the target', `GET /a HTTP/1.1 HTTP/1.1\r\n${HOST}\r\n`),
  {
    name: 'a space behind the version',
    bytes: `GET / HTTP/1.1 \r\n${HOST}\r\n`,
    forwarded: [],
    isOpaque: true,
  },
  {
    name: 'a space behind the version of the second request',
    bytes: `${GET}GET / HTTP/1.1 \r\n${HOST}\r\n`,
    forwarded: [GET],
    refused: 400,
  },
  refused('a tab for a space', `GET / HTTP/1.1\r\n${HOST}\r\n`.replace('GET /', 'GET /\t')),
  refused('HTTP/1.2', `GET / HTTP/1.2\r\n${HOST}\r\n`),
  refused('HTTP/2.0 in a request line', `GET / HTTP/2.0\r\n${HOST}\r\n`),
  refused('HTTP/01.1', `GET / HTTP/01.1\r\n${HOST}\r\n`),
  refused('a method in lower case', `get / HTTP/1.1\r\n${HOST}\r\n`),
  refused('a method in mixed case', `Get / HTTP/1.1\r\n${HOST}\r\n`),
  refused('CONNECT', `CONNECT app:80 HTTP/1.1\r\n${HOST}\r\n${HIDDEN}`, 405),
  { name: 'HTTP/0.9', bytes: 'GET /\r\n', forwarded: [], isOpaque: true },
  { name: 'lower-case http', bytes: `GET / http/1.1\r\n${HOST}\r\n`, forwarded: [], isOpaque: true },
  { name: 'an empty line first', bytes: `\r\n${GET}`, forwarded: [], isOpaque: true },
  { name: 'a space first', bytes: ` ${GET}`, forwarded: [], isOpaque: true },
  { name: 'a TLS record', bytes: '\x16\x03\x01\x00\x05hello', forwarded: [], isOpaque: true },
  { name: 'a byte order mark first', bytes: `\xef\xbb\xbf${GET}`, forwarded: [], isOpaque: true },
  { name: 'HTTP/0.9 behind a request', bytes: `${GET}GET /denied\r\n\r\n`, forwarded: [GET], refused: 400 },
  {
    name: 'the preface of HTTP/2 behind a request',
    bytes: `${GET}PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n`,
    forwarded: [GET],
    refused: 400,
  },
  same('a method of an extension', `M-SEARCH / HTTP/1.1\r\n${HOST}\r\n`),
];

const HOSTS: readonly RequestCase[] = [
  refused('no Host', 'GET / HTTP/1.1\r\nX: y\r\n\r\n'),
  refused('two Hosts', `GET / HTTP/1.1\r\n${HOST}Host: other\r\n\r\n`),
  refused('two equal Hosts', `GET / HTTP/1.1\r\n${HOST}${HOST}\r\n`),
  refused('two Hosts, one in capitals', `GET / HTTP/1.1\r\n${HOST}HOST: other\r\n\r\n`),
  refused('an empty Host', 'GET / HTTP/1.1\r\nHost:\r\n\r\n'),
  refused('a list of Hosts', 'GET / HTTP/1.1\r\nHost: app, other\r\n\r\n'),
  refused('a Host with a space', 'GET / HTTP/1.1\r\nHost: app other\r\n\r\n'),
  refused('a Host with a user', 'GET / HTTP/1.1\r\nHost: app@other\r\n\r\n'),
  refused('a Host with a path', 'GET / HTTP/1.1\r\nHost: app/other\r\n\r\n'),
  refused('a Host with an empty port', 'GET / HTTP/1.1\r\nHost: app:\r\n\r\n'),
  refused('a Host with two ports', 'GET / HTTP/1.1\r\nHost: app:80:80\r\n\r\n'),
  refused('a Host that is not ASCII', 'GET / HTTP/1.1\r\nHost: \xe4pp\r\n\r\n'),
  refused('an absolute target of another host', `GET http://other/ HTTP/1.1\r\n${HOST}\r\n`),
  refused('an absolute target with a user', `GET http://app@app/ HTTP/1.1\r\n${HOST}\r\n`),
  refused('an absolute target of another port', `GET http://app:81/ HTTP/1.1\r\n${HOST}\r\n`),
  refused('an absolute target without Host', 'GET http://app/ HTTP/1.1\r\nX: y\r\n\r\n'),
  refused('an absolute target of another scheme', `GET ftp://app/ HTTP/1.1\r\n${HOST}\r\n`),
  refused('the authority as target of a GET', `GET app:80 HTTP/1.1\r\n${HOST}\r\n`),
  becomes(
    'an absolute target of the same host',
    `GET http://APP/a?b HTTP/1.1\r\n${HOST}\r\n`,
    `GET /a?b HTTP/1.1\r\n${HOST}\r\n`,
  ),
  becomes(
    'an absolute target without a path',
    `GET http://app?b HTTP/1.1\r\n${HOST}\r\n`,
    `GET /?b HTTP/1.1\r\n${HOST}\r\n`,
  ),
  same('a Host with a port', 'GET / HTTP/1.1\r\nHost: app:8080\r\n\r\n'),
  same('a Host that is an IPv6 address', 'GET / HTTP/1.1\r\nHost: [fd00::1]:80\r\n\r\n'),
  same('HTTP/1.0 without Host', 'GET / HTTP/1.0\r\n\r\n'),
];

const target = (path: string): string => `GET ${path} HTTP/1.1\r\n${HOST}\r\n`;
const TARGETS: readonly RequestCase[] = [
  refused('an escaped NUL', target('/a%00b')),
  refused('a raw NUL', target('/a\x00b')),
  refused('a broken escape', target('/a%zz')),
  refused('an escape cut short', target('/a%2')),
  refused('an escape of UTF-16', target('/a%u002fb')),
  refused('an overlong slash in two bytes', target('/a%c0%afb')),
  refused('an overlong dot in two bytes', target('/a/%C0%AE%C0%AE/b')),
  refused('an overlong slash in three bytes', target('/a%e0%80%afb')),
  refused('an overlong slash in four bytes', target('/a%f0%80%80%afb')),
  refused('an overlong NUL', target('/a%c0%80')),
  refused('a fragment', target('/a#/../denied')),
  refused('a byte that is not ASCII', target('/\xe4')),
  refused('a DEL', target('/a\x7f')),
  refused('a star for GET', target('*')),
  refused('a target without slash', target('a')),
  refused('an empty target', 'GET  HTTP/1.1\r\nHost: app\r\n\r\n'),
  becomes('dots are resolved', target('/a/./b/../c?x=/../y'), target('/a/c?x=/../y')),
  becomes('dots above the root', target('/../../a'), target('/a')),
  becomes('escaped dots', target('/a/%2e%2E/b'), target('/b')),
  becomes('a backslash', target('/a\\b'), target('/a/b')),
  becomes('escapes of letters', target('/%61%2D'), target('/a-')),
  { name: 'a denied path behind dots', bytes: target('/a/../denied'), forwarded: [] },
  { name: 'a denied path in escapes', bytes: target('/%64enied'), forwarded: [] },
  same('an escaped slash stays', target('/a%2Fb')),
  same('an escaped percent stays', target('/a%252e')),
  same('two slashes stay', target('//a')),
  same('a broken escape in the query', target('/a?b=%zz')),
  same('OPTIONS of the whole server', `OPTIONS * HTTP/1.1\r\n${HOST}\r\n`),
];

const CONNECTIONS: readonly RequestCase[] = [
  refused(
    'Connection names Content-Length',
    `${head('Connection: Content-Length\r\nContent-Length: 3\r\n')}abc`,
  ),
  refused('Connection names Host', head('Connection: close, HOST\r\n')),
  becomes(
    'an offer of h2c',
    head(
      'Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n',
      'GET / HTTP/1.1',
    ),
    `GET / HTTP/1.1\r\n${HOST}\r\n`,
  ),
  becomes(
    'an offer of h2c among others',
    head('Connection: x, upgrade\r\nUpgrade: websocket, H2C\r\n', 'GET / HTTP/1.1'),
    head('Connection: x\r\n', 'GET / HTTP/1.1'),
  ),
  becomes(
    'an offer of h2c in two fields',
    head('Upgrade: websocket\r\nUpgrade: h2c\r\n', 'GET / HTTP/1.1'),
    `GET / HTTP/1.1\r\n${HOST}\r\n`,
  ),
  becomes(
    'an offer of TLS',
    head('Connection: upgrade\r\nUpgrade: TLS/1.0\r\n', 'GET / HTTP/1.1'),
    `GET / HTTP/1.1\r\n${HOST}\r\n`,
  ),
  becomes(
    'an offer of HTTP/2.0',
    head('Connection: upgrade\r\nUpgrade: HTTP/2.0\r\n', 'GET / HTTP/1.1'),
    `GET / HTTP/1.1\r\n${HOST}\r\n`,
  ),
  same(
    'an offer of WebSocket that is not taken',
    head('Connection: Upgrade\r\nUpgrade: websocket\r\n', 'GET / HTTP/1.1'),
  ),
  {
    name: 'a request behind an offer of WebSocket that is not taken is judged',
    bytes: head('Connection: Upgrade\r\nUpgrade: websocket\r\n', 'GET / HTTP/1.1') + HIDDEN + GET,
    forwarded: [head('Connection: Upgrade\r\nUpgrade: websocket\r\n', 'GET / HTTP/1.1'), GET],
  },
  { name: 'a denied request in the middle', bytes: GET + HIDDEN + GET, forwarded: [GET, GET] },
  {
    name: 'the body of a denied request is not a request',
    bytes: `POST /denied HTTP/1.1\r\n${HOST}Content-Length: ${GET.length}\r\n\r\n${GET}${GET}`,
    forwarded: [GET],
  },
  {
    name: 'the chunks of a denied request are not requests',
    bytes: `POST /denied HTTP/1.1\r\n${HOST}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n${GET}`,
    forwarded: [GET],
  },
  {
    name: 'nothing follows a denied request that awaits 100',
    bytes: `POST /denied HTTP/1.1\r\n${HOST}Expect: 100-continue\r\nContent-Length: 3\r\n\r\n${GET}`,
    forwarded: [],
  },
  {
    name: 'nothing follows a denied request with malformed chunks',
    bytes: `POST /denied HTTP/1.1\r\n${HOST}Transfer-Encoding: chunked\r\n\r\nxyz\r\n${GET}`,
    forwarded: [],
  },
  {
    name: 'nothing follows a request that wants to be the last',
    bytes: head('Connection: close\r\n', 'GET / HTTP/1.1') + GET,
    forwarded: [head('Connection: close\r\n', 'GET / HTTP/1.1')],
  },
  {
    name: 'nothing follows a request of HTTP/1.0',
    bytes: `GET / HTTP/1.0\r\n\r\n${GET}`,
    forwarded: ['GET / HTTP/1.0\r\n\r\n'],
  },
];

export const REQUEST_CASES: readonly RequestCase[] = [
  ...FRAMING_CASES,
  ...LINES,
  ...START_LINES,
  ...HOSTS,
  ...TARGETS,
  ...CONNECTIONS,
];
