/** The server name that a TLS client asks for, from its ClientHello (RFC 8446 section 4.1.2, RFC 6066 section 3). Pure. */

export type Hello =
  | { readonly kind: 'more' }
  /** `name` is in lower case; undefined when it asks for none. */
  | { readonly kind: 'hello'; readonly name: string | undefined }
  /** A TLS record, but no ClientHello that can be read. */
  | { readonly kind: 'broken' };

const RECORD_HEADER = 5;
const HANDSHAKE = 22;
const CLIENT_HELLO = 1;
const SERVER_NAME = 0;
const HOST_NAME = 0;
const MAX_RECORD = 16_384;
const NAME = /^[a-z0-9\-._]{1,255}$/;

const MORE: Hello = { kind: 'more' };
const BROKEN: Hello = { kind: 'broken' };

/** Whether a connection begins as TLS does. */
export function isTls(bytes: Buffer): boolean {
  return bytes[0] === HANDSHAKE && (bytes.length < 2 || bytes[1] === 3);
}

/** Reads a ClientHello, which may come in several records. @param maxBytes how long it may be. */
export function readHello(bytes: Buffer, maxBytes: number): Hello {
  const parts: Buffer[] = [];
  let wanted = 4;
  let got = 0;
  for (let at = 0; got < wanted; ) {
    if (bytes.length < at + RECORD_HEADER) return bytes.length < maxBytes ? MORE : BROKEN;
    const length = bytes.readUInt16BE(at + 3);
    if (bytes[at] !== HANDSHAKE || bytes[at + 1] !== 3 || length === 0 || length > MAX_RECORD) return BROKEN;
    const part = bytes.subarray(at + RECORD_HEADER, at + RECORD_HEADER + length);
    parts.push(part);
    got += part.length;
    at += RECORD_HEADER + length;
    if (got < 4) continue;
    const start = Buffer.concat(parts, 4);
    if (start[0] !== CLIENT_HELLO) return BROKEN;
    wanted = 4 + start.readUIntBE(1, 3);
    if (wanted > maxBytes) return BROKEN;
    if (part.length < length && got < wanted) return bytes.length < maxBytes ? MORE : BROKEN;
  }
  const hello = new Reader(Buffer.concat(parts).subarray(4, wanted));
  const name = hello.serverName();
  return hello.isBroken ? BROKEN : { kind: 'hello', name };
}

/** Takes fields off a message; what is cut short breaks it, and reads as empty from there on. */
class Reader {
  isBroken = false;
  #left: Buffer;

  constructor(bytes: Buffer) {
    this.#left = bytes;
  }

  serverName(): string | undefined {
    this.#take(2 + 32);
    this.#vector(1);
    this.#vector(2);
    this.#vector(1);
    // An old client may send no extensions at all.
    if (this.#left.length === 0) return undefined;
    const extensions = new Reader(this.#vector(2));
    let found: string | undefined;
    while (extensions.#left.length > 0 && !extensions.isBroken) {
      const type = extensions.#number(2);
      const body = extensions.#vector(2);
      if (type !== SERVER_NAME) continue;
      // Twice: which one would the app take?
      if (found !== undefined) this.isBroken = true;
      found = this.#hostName(body);
    }
    this.isBroken ||= extensions.isBroken;
    return found;
  }

  #hostName(body: Buffer): string {
    const list = new Reader(new Reader(body).#vector(2));
    const type = list.#number(1);
    const name = list.#vector(2).toString('latin1').toLowerCase();
    if (list.isBroken || type !== HOST_NAME || list.#left.length > 0 || !NAME.test(name))
      this.isBroken = true;
    return name;
  }

  #vector(lengthBytes: 1 | 2): Buffer {
    return this.#take(this.#number(lengthBytes));
  }

  #number(size: 1 | 2): number {
    const bytes = this.#take(size);
    return bytes.length < size ? 0 : bytes.readUIntBE(0, size);
  }

  #take(size: number): Buffer {
    if (this.#left.length < size) {
      this.isBroken = true;
      this.#left = Buffer.alloc(0);
      return this.#left;
    }
    const taken = this.#left.subarray(0, size);
    this.#left = this.#left.subarray(size);
    return taken;
  }
}
