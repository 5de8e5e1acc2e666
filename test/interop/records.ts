/** Which access record is of which connection. */
import type { LogRecord } from '../lab/kit/daemon.ts';

/** A connection as its client and its server's address tell it apart. */
export interface Ends {
  /** The client's socket's own `ip:port`. */
  readonly local: string;
  /** What was dialled, or asked for in a CONNECT: `ip:port`, or `:port` for any address. */
  readonly to: string;
}

/**
 * Whether a record is of that connection. Of the client by port only, since a captured socket's own address is a
 * loopback one; and never without the destination, since two connections may share a source port.
 */
export function isOf(record: LogRecord, { local, to }: Ends): boolean {
  const port = /:\d+$/.exec(local)?.[0];
  if (port === undefined || !String(record['src.addr']).endsWith(port)) return false;
  return String(record['dst.addr']).endsWith(to);
}
