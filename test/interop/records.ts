/** Which access record is of which connection. */
import type { LogRecord } from '../lab/kit/daemon.ts';

/**
 * Whether a record is of the client whose socket's own address is `local`: by port, since a captured socket's own
 * address is a loopback one.
 */
export function isFrom(record: LogRecord, local: string): boolean {
  const port = /:\d+$/.exec(local)?.[0];
  return port !== undefined && String(record['src.addr']).endsWith(port);
}
