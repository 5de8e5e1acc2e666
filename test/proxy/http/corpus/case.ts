/**
 * Requests that two readers could take for two things, and near them those that are fine. The tricks are those of
 * public work on request smuggling (RFC 9112 section 11; the variants of Transfer-Encoding that scanners try; chunk
 * extension, trailer, Expect and bare line end tricks; h2c upgrades); the words are ours. Bytes are Latin-1.
 */

export interface RequestCase {
  readonly name: string;
  /** What the client sends, and then FIN. */
  readonly bytes: string;
  /** What the app gets, request by request: exactly this. */
  readonly forwarded: readonly string[];
  /** The status with which the connection ends; undefined: with nothing refused. */
  readonly refused?: number;
  /** It is not HTTP at all: cut, since the test's judge denies that. */
  readonly isOpaque?: true;
  /** The head has gone on before the body turned out to be malformed: the app may have got less, never a whole request. */
  readonly isSpoiled?: true;
}

export const HOST = 'Host: app\r\n';
export const GET = `GET / HTTP/1.1\r\n${HOST}\r\n`;
/** What an attacker wants the app to see. */
export const HIDDEN = `GET /denied HTTP/1.1\r\n${HOST}\r\n`;

export const refused = (name: string, bytes: string, status = 400): RequestCase => ({
  name,
  bytes,
  forwarded: [],
  refused: status,
});
export const same = (name: string, bytes: string): RequestCase => ({ name, bytes, forwarded: [bytes] });
export const becomes = (name: string, bytes: string, ...forwarded: string[]): RequestCase => ({
  name,
  bytes,
  forwarded,
});

export const head = (fields: string, line = 'POST / HTTP/1.1'): string => `${line}\r\n${HOST}${fields}\r\n`;
