/** Where a request ends: lengths, encodings, chunks. */
import { becomes, GET, head, HIDDEN, refused, same } from './case.ts';
import type { RequestCase } from './case.ts';

/** A chunked body with a request behind its end, as a reader by Content-Length would not see it. */
const CHUNKED_AND_MORE = `0\r\n\r\n${HIDDEN}`;
const transferEncoding = (field: string): string =>
  head(`Content-Length: 5\r\n${field}\r\n`) + CHUNKED_AND_MORE;
const onlyTransferEncoding = (field: string): string => head(`${field}\r\n`) + CHUNKED_AND_MORE;
const chunked = (body: string): string => head('Transfer-Encoding: chunked\r\n') + body;
/** The head goes on before its body turns out to be wrong. */
const spoiled = (name: string, body: string, before = ''): RequestCase => ({
  name,
  bytes: chunked(body),
  forwarded: [chunked(before)],
  refused: 400,
  isSpoiled: true,
});

const LENGTHS: readonly RequestCase[] = [
  refused(
    'Content-Length before Transfer-Encoding',
    head('Content-Length: 5\r\nTransfer-Encoding: chunked\r\n') + CHUNKED_AND_MORE,
  ),
  refused(
    'Transfer-Encoding before Content-Length',
    head('Transfer-Encoding: chunked\r\nContent-Length: 5\r\n') + CHUNKED_AND_MORE,
  ),
  refused(
    'Content-Length 0 beside Transfer-Encoding',
    head('Content-Length: 0\r\nTransfer-Encoding: chunked\r\n') + CHUNKED_AND_MORE,
  ),
  refused(
    'two Content-Lengths that differ',
    `${head('Content-Length: 0\r\nContent-Length: 44\r\n')}${HIDDEN}`,
  ),
  refused('two Content-Lengths that agree', `${head('Content-Length: 3\r\nContent-Length: 3\r\n')}abc`),
  refused('a list of lengths in one field', `${head('Content-Length: 3, 3\r\n')}abc`),
  refused('a list of lengths that differ', `${head('Content-Length: 0, 3\r\n')}abc`),
  refused('a Content-Length with a plus', `${head('Content-Length: +3\r\n')}abc`),
  refused('a Content-Length with a minus', `${head('Content-Length: -3\r\n')}abc`),
  refused('a Content-Length in hexadecimal', `${head('Content-Length: 0x3\r\n')}abc`),
  refused('a Content-Length with a fraction', `${head('Content-Length: 3.0\r\n')}abc`),
  refused('a Content-Length with leading zeros', `${head('Content-Length: 003\r\n')}abc`),
  refused('a Content-Length with an exponent', `${head('Content-Length: 3e0\r\n')}abc`),
  refused('a Content-Length beyond 2^53', `${head('Content-Length: 18446744073709551619\r\n')}abc`),
  refused('an empty Content-Length', head('Content-Length:\r\n')),
  refused('a Content-Length with an underscore for its dash', `${head('Content_Length: 3\r\n')}abc`),
  refused('a space inside the length', `${head('Content-Length: 1 0\r\n')}0123456789`),
  refused('a no-break space before the length', `${head('Content-Length: \xa03\r\n')}abc`),
  same('a body of the length that is stated', `${head('Content-Length: 3\r\n')}abc`),
  becomes(
    'bytes behind the body are the next request',
    `${head('Content-Length: 3\r\n')}abc${GET}`,
    `${head('Content-Length: 3\r\n')}abc`,
    GET,
  ),
  becomes(
    'a body that looks like a request stays a body',
    head(`Content-Length: ${HIDDEN.length}\r\n`) + HIDDEN,
    head(`Content-Length: ${HIDDEN.length}\r\n`) + HIDDEN,
  ),
  same('a GET with a body', `${head('Content-Length: 3\r\n', 'GET / HTTP/1.1')}abc`),
  becomes(
    'spaces and tabs around a length',
    `${head('Content-Length: \t 3 \t\r\n')}abc`,
    `${head('Content-Length: 3\r\n')}abc`,
  ),
];

const ENCODINGS: readonly RequestCase[] = [
  ...[
    'Transfer-Encoding : chunked',
    ' Transfer-Encoding: chunked',
    'X: y\r\n Transfer-Encoding: chunked',
    'Transfer-Encoding: xchunked',
    'Transfer-Encoding: chunked\x00',
    'Transfer-Encoding\x00: chunked',
    'Transfer-Encoding: \x0bchunked',
    'Transfer-Encoding: chunked\x0c',
    'Transfer-Encoding:\xa0chunked',
    'Transfer-Encoding:\xffchunked',
    'Transfer-Encoding: "chunked"',
    "Transfer-Encoding: 'chunked'",
    'Transfer-Encoding: chunked, identity',
    'Transfer-Encoding: identity, chunked',
    'Transfer-Encoding: gzip, chunked',
    'Transfer-Encoding: chunked, chunked',
    'Transfer-Encoding: ,chunked',
    'Transfer-Encoding: chunked,',
    'Transfer-Encoding: chunk',
    'Transfer-Encoding: identity',
    'Transfer-Encoding: chunked;q=1',
    'Transfer-Encoding:',
    'Transfer-Encoding: ch\xf6nked',
    'Transfer_Encoding: chunked',
    'Transfer\\Encoding: chunked',
    'Transfer-Encoding: \r\n chunked',
    'Transfer-Encoding: x\r\nTransfer-Encoding: chunked',
    'Transfer-Encoding: chunked\r\nTransfer-Encoding: identity',
    'Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked',
    'X: y\nTransfer-Encoding: chunked',
    'X: y\rTransfer-Encoding: chunked',
    'Transfer-Encoding\r: chunked',
    'Transfer-Encoding: chunked\r',
    'X\r\nTransfer-Encoding: chunked',
    'Transfer-Encodin\xe7: chunked\r\nTransfer-Encoding: chunked',
    '\x00Transfer-Encoding: chunked',
    ': chunked',
  ].flatMap((field) => [
    refused(`${JSON.stringify(field)} beside a Content-Length`, transferEncoding(field)),
    refused(`${JSON.stringify(field)} alone`, onlyTransferEncoding(field)),
  ]),
  refused(
    'Transfer-Encoding in HTTP/1.0',
    `POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n${CHUNKED_AND_MORE}`,
  ),
  same(
    'Content-Encoding is nothing to framing',
    `${head('Content-Encoding: chunked\r\nContent-Length: 3\r\n')}abc`,
  ),
  same('chunked in capitals', `${head('Transfer-Encoding: CHUNKED\r\n')}3\r\nabc\r\n0\r\n\r\n`),
];

const CHUNKS: readonly RequestCase[] = [
  same('chunks and a trailer', chunked('3\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n')),
  becomes(
    'bytes behind the last chunk are the next request',
    chunked(`0\r\n\r\n${GET}`),
    chunked('0\r\n\r\n'),
    GET,
  ),
  becomes(
    'chunk extensions stay here',
    chunked('3;a=b;c="d"\r\nabc\r\n0;x\r\n\r\n'),
    chunked('3\r\nabc\r\n0\r\n\r\n'),
  ),
  becomes(
    'spaces in an extension',
    chunked('3; a = b\r\nabc\r\n0\r\n\r\n'),
    chunked('3\r\nabc\r\n0\r\n\r\n'),
  ),
  spoiled('a chunk size in capitals of another alphabet', '3x\r\nabc\r\n0\r\n\r\n'),
  spoiled('a chunk size with 0x', '0x3\r\nabc\r\n0\r\n\r\n'),
  spoiled('a chunk size with a plus', '+3\r\nabc\r\n0\r\n\r\n'),
  spoiled('a negative chunk size', '-3\r\nabc\r\n0\r\n\r\n'),
  spoiled('an empty chunk size', '\r\nabc\r\n0\r\n\r\n'),
  spoiled('a space before the chunk size', ' 3\r\nabc\r\n0\r\n\r\n'),
  spoiled('a space behind the chunk size', '3 \r\nabc\r\n0\r\n\r\n'),
  spoiled('a tab before an extension', '3\t;a\r\nabc\r\n0\r\n\r\n'),
  spoiled('a chunk size with an underscore', '1_0\r\n0123456789abcdef\r\n0\r\n\r\n'),
  spoiled('a chunk size beyond 31 bits', '80000000\r\nabc'),
  spoiled('a chunk size beyond 64 bits', '10000000000000003\r\nabc\r\n0\r\n\r\n'),
  spoiled('a chunk size line that ends with LF', '3\nabc\r\n0\r\n\r\n'),
  spoiled('a chunk size line that ends with CR', '3\rabc\r\n0\r\n\r\n'),
  spoiled('a bare LF in an extension', `2;\nxx\r\n4c\r\n0\r\n\r\n${HIDDEN}`),
  spoiled('a bare CR in an extension', `2;\rxx\r\nab\r\n0\r\n\r\n${HIDDEN}`),
  spoiled('a NUL in an extension', '3;a\x00b\r\nabc\r\n0\r\n\r\n'),
  spoiled('an extension without end', `3;${'a'.repeat(2_000)}\r\nabc\r\n0\r\n\r\n`),
  spoiled('data longer than its chunk', `3\r\nabcdef\r\n0\r\n\r\n`, '3\r\nabc'),
  spoiled('a chunk that ends with LF', '3\r\nabc\n0\r\n\r\n', '3\r\nabc'),
  spoiled('a chunk that ends with two bytes that are not CRLF', '3\r\nabcXX0\r\n\r\n', '3\r\nabc'),
  spoiled('a last chunk that ends with LF', `0\n\n${HIDDEN}`),
  spoiled('trailers that end with LF', `0\r\nX: y\n\n${HIDDEN}`, '0\r\n'),
  spoiled('a Content-Length as trailer', '0\r\nContent-Length: 40\r\n\r\n', '0\r\n'),
  spoiled('a Transfer-Encoding as trailer', '0\r\nTransfer-Encoding: chunked\r\n\r\n', '0\r\n'),
  spoiled('a Host as trailer', '0\r\nHost: other\r\n\r\n', '0\r\n'),
  spoiled('an Authorization as trailer', '0\r\nAuthorization: Basic eDp5\r\n\r\n', '0\r\n'),
  same(
    'a field that quotes a request line as trailer',
    chunked('0\r\nX:GET /denied HTTP/1.1\r\n\r\n').replace('X:', 'X: '),
  ),
  spoiled('a last chunk that ends with two bytes that are not CRLF', `0\r\nX;${HIDDEN}`, '0\r\n'),
  spoiled('a request as trailer', `0\r\n${HIDDEN}`, '0\r\n'),
  spoiled('a folded trailer', '0\r\nX: y\r\n z\r\n\r\n', '0\r\n'),
  spoiled('trailers without end', `0\r\n${`X: ${'a'.repeat(1_000)}\r\n`.repeat(20)}\r\n`, '0\r\n'),
];

export const FRAMING_CASES: readonly RequestCase[] = [...LENGTHS, ...ENCODINGS, ...CHUNKS];
