/** What a client is told when a request does not reach the app. Short, and no hint of the rule. */

/** A request or answer that must not be passed on; `why` is for the access record, never for the client. */
export interface Refused {
  readonly ok: false;
  readonly status: number;
  readonly why: string;
}

export function refused(why: string, status = 400): Refused {
  return { ok: false, status, why };
}

const TEXTS: Readonly<Record<number, string>> = {
  400: 'Bad Request',
  403: 'Forbidden',
  405: 'Method Not Allowed',
  408: 'Request Timeout',
  431: 'Request Header Fields Too Large',
  502: 'Bad Gateway',
};

/** The body of a refusal. */
export function refusalBody(status: number): string {
  return status === 403 ? 'access denied\n' : `${TEXTS[status] ?? 'refused'}\n`.toLowerCase();
}

/** A whole answer of HTTP/1. `isHead`: the request's method was HEAD, so the body is only announced. */
export function refusalAnswer(status: number, { keepAlive = false, isHead = false } = {}): Buffer {
  const body = refusalBody(status);
  const head =
    `HTTP/1.1 ${status} ${TEXTS[status] ?? ''}\r\ncontent-type: text/plain\r\n` +
    `content-length: ${body.length}\r\nconnection: ${keepAlive ? 'keep-alive' : 'close'}\r\n\r\n`;
  return Buffer.from(isHead ? head : head + body, 'latin1');
}
