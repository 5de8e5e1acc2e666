/** What the parts of the HTTP relay share: both ends, the one who judges, and how it is over. No code. */
import type { Reason } from '../../errors.ts';
import type { HttpRequest } from '../../mesh/policy/model.ts';
import type { PathNormalization } from '../../mesh/policy/path.ts';
import type { HttpLimits } from './limits.ts';
import type { Outlet } from './outlet.ts';
import type { ByteSource } from './source.ts';

/** Decides by what the policies say at that moment. undefined: the bytes are not HTTP. */
export type Judge = (
  request: HttpRequest | undefined,
  /** What TLS asks for, where the bytes are that. */
  sni?: string,
) => {
  readonly allowed: boolean;
  /** The object and rule that decided: for the access record, never for the client. */
  readonly detail: string;
};

export interface Ends {
  readonly fromClient: ByteSource;
  readonly fromUpstream: ByteSource;
  readonly toClient: Outlet;
  readonly toUpstream: Outlet;
  readonly judge: Judge;
  readonly normalization: PathNormalization;
  readonly limits: HttpLimits;
  /** A request was denied, and the connection lives on. */
  denied(detail: string): void;
  /** Ends the connection in order: the client hears all that has been written for it. */
  finish(reason: Reason, detail?: string): void;
  /** Resets both ends. */
  cut(reason: Reason, detail?: string): void;
  /** From here on the bytes are carried unread, on the strength of `request`. */
  tunnel(request: HttpRequest): void;
}

/** One protocol at work. */
export interface Conversation {
  /** Judges again what goes on at the moment. */
  rejudge(): void;
  /** Both ends are about to be reset. */
  abandon(): void;
  /** It reads, writes and closes both ends by itself. */
  readonly ownsEnds: boolean;
}
