/** Answers of an app that a client could read in two ways, and near them those that are fine. Bytes are Latin-1. */

export interface ResponseCase {
  readonly name: string;
  readonly request: string;
  /** What the app answers. */
  readonly bytes: string;
  /** What the client gets; 502: that, and nothing of the app's. */
  readonly heard: string | 502;
  /** The app closes behind its answer. */
  readonly closes?: true;
}

const GET = 'GET / HTTP/1.1\r\nHost: app\r\n\r\n';
const HEAD = 'HEAD / HTTP/1.1\r\nHost: app\r\n\r\n';
const UPGRADE = 'GET / HTTP/1.1\r\nHost: app\r\nUpgrade: websocket\r\n\r\n';
/** What an attacker behind the app wants the client to take for the next answer. */
const HIDDEN = 'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil';

const bad = (name: string, bytes: string, request = GET): ResponseCase => ({
  name,
  request,
  bytes,
  heard: 502,
});
const same = (name: string, bytes: string, request = GET): ResponseCase => ({
  name,
  request,
  bytes,
  heard: bytes,
});
const answer = (fields: string, line = 'HTTP/1.1 200 OK'): string => `${line}\r\n${fields}\r\n`;

export const RESPONSE_CASES: readonly ResponseCase[] = [
  bad(
    'both Content-Length and Transfer-Encoding',
    `${answer('Content-Length: 3\r\nTransfer-Encoding: chunked\r\n')}0\r\n\r\n`,
  ),
  bad('two Content-Lengths', `${answer('Content-Length: 3\r\nContent-Length: 4\r\n')}abcd`),
  bad('a Content-Length that is no number', `${answer('Content-Length: 3x\r\n')}abc`),
  bad('a negative Content-Length', `${answer('Content-Length: -1\r\n')}abc`),
  bad('a Transfer-Encoding other than chunked', `${answer('Transfer-Encoding: gzip, chunked\r\n')}0\r\n\r\n`),
  bad(
    'two Transfer-Encodings',
    `${answer('Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n')}0\r\n\r\n`,
  ),
  bad(
    'Transfer-Encoding in HTTP/1.0',
    `${answer('Transfer-Encoding: chunked\r\n', 'HTTP/1.0 200 OK')}0\r\n\r\n`,
  ),
  bad('a space before a colon', `${answer('Content-Length : 3\r\n')}abc`),
  bad('a folded field', `${answer('X: a\r\n b\r\nContent-Length: 3\r\n')}abc`),
  bad('lines that end with LF', 'HTTP/1.1 200 OK\nContent-Length: 3\n\nabc'),
  bad('a bare CR in a value', `${answer('X: a\rb\r\nContent-Length: 3\r\n')}abc`),
  bad('a NUL in a value', `${answer('X: \x00\r\nContent-Length: 3\r\n')}abc`),
  bad('a status of four digits', answer('Content-Length: 0\r\n', 'HTTP/1.1 2000 OK')),
  bad('a status of two digits', answer('Content-Length: 0\r\n', 'HTTP/1.1 20 OK')),
  bad('HTTP/2.0 in a status line', answer('Content-Length: 0\r\n', 'HTTP/2.0 200 OK')),
  bad('no status line', 'hello\r\n\r\n'),
  bad('an empty line first', `\r\n${HIDDEN}`),
  bad('204 with a length', `${answer('Content-Length: 4\r\n', 'HTTP/1.1 204 No Content')}evil`),
  bad('204 in chunks', `${answer('Transfer-Encoding: chunked\r\n', 'HTTP/1.1 204 No Content')}0\r\n\r\n`),
  bad('103 with a length', `${answer('Content-Length: 4\r\n', 'HTTP/1.1 103 Early Hints')}evil${HIDDEN}`),
  bad(
    'a switch that nobody offered',
    `${answer('Upgrade: websocket\r\n', 'HTTP/1.1 101 Switching Protocols')}${HIDDEN}`,
  ),
  bad(
    'a switch to another protocol than was offered',
    `${answer('Upgrade: h2c\r\n', 'HTTP/1.1 101 Switching Protocols')}${HIDDEN}`,
    UPGRADE,
  ),
  bad(
    'a switch that does not say to what',
    `${answer('', 'HTTP/1.1 101 Switching Protocols')}${HIDDEN}`,
    UPGRADE,
  ),
  {
    name: 'interim answers without end',
    request: GET,
    bytes: answer('', 'HTTP/1.1 102 Processing').repeat(150),
    heard: `${answer('', 'HTTP/1.1 102 Processing').repeat(101)}HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/plain\r\ncontent-length: 12\r\nconnection: close\r\n\r\nbad gateway\n`,
  },
  bad('a head of 64 KiB', answer(`X: ${'y'.repeat(65_536)}\r\n`)),
  same('a length', `${answer('Content-Length: 3\r\n')}abc`),
  same('chunks', `${answer('Transfer-Encoding: chunked\r\n')}3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n`),
  same('no reason phrase', answer('Content-Length: 0\r\n', 'HTTP/1.1 200 ')),
  same('nothing behind the status', answer('Content-Length: 0\r\n', 'HTTP/1.1 200')),
  same('204', answer('X: y\r\n', 'HTTP/1.1 204 No Content')),
  same(
    '304 with the length of what it does not send',
    answer('Content-Length: 300\r\n', 'HTTP/1.1 304 Not Modified'),
  ),
  same('HEAD with a length', answer('Content-Length: 300\r\n'), HEAD),
  same('HEAD with chunks that do not come', answer('Transfer-Encoding: chunked\r\n'), HEAD),
  same(
    'interim answers',
    `${answer('Link: x\r\n', 'HTTP/1.1 103 Early Hints')}${answer('Content-Length: 0\r\n')}`,
  ),
  {
    name: 'a body until the end of the connection',
    request: GET,
    bytes: `${answer('X: y\r\n')}abc`,
    heard: `${answer('X: y\r\nConnection: close\r\n')}abc`,
    closes: true,
  },
  {
    name: 'HTTP/1.0 until the end of the connection',
    request: GET,
    bytes: `${answer('', 'HTTP/1.0 200 OK')}abc`,
    heard: `${answer('', 'HTTP/1.0 200 OK')}abc`,
    closes: true,
  },
  {
    name: 'what comes behind the answer does not reach the client',
    request: GET,
    bytes: `${answer('Content-Length: 3\r\n')}abc${HIDDEN}`,
    heard: `${answer('Content-Length: 3\r\n')}abc`,
  },
  {
    name: 'a body behind an answer to HEAD does not reach the client',
    request: HEAD,
    bytes: `${answer('Content-Length: 4\r\n')}evil`,
    heard: answer('Content-Length: 4\r\n'),
  },
];
