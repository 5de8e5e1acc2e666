/**
 * What both sides of a tunnel have in common: HTTP/2 parameters (HBONE.md 3.6 and trap 3), PING, and how a tunnel
 * ends.
 */
import type { Http2Session, Http2Stream, Settings } from 'node:http2';
import type { Duplex } from 'node:stream';
import type { TLSSocket } from 'node:tls';
import type { Config } from '../../config.ts';

/** The knobs of the wire. */
export type HboneConfig = Pick<
  Config,
  | 'connectTimeout'
  | 'handshakeTimeout'
  | 'requestTimeout'
  | 'answerTimeout'
  | 'tunnelIdle'
  | 'pingInterval'
  | 'pingTimeout'
  | 'maxHandshakes'
  | 'maxHandshakesPerPod'
  | 'maxHandshakesPerSource'
  | 'maxStreamsPerTunnel'
  | 'maxStreamsServed'
  | 'maxTunnelsPerPod'
  | 'maxTunnels'
  | 'maxHeaderBytes'
  | 'streamWindow'
  | 'tunnelWindow'
>;

const MEBIBYTE = 1 << 20;

/** A stream's error when its tunnel broke under it. */
export class TunnelLostError extends Error {
  readonly code = 'TUNNEL_LOST';
  constructor(message: string) {
    super(message);
    this.name = 'TunnelLostError';
  }
}

/** Our SETTINGS; the server side adds MAX_CONCURRENT_STREAMS. */
export function settingsOf(config: HboneConfig): Settings {
  return {
    initialWindowSize: config.streamWindow,
    maxFrameSize: MEBIBYTE,
    maxHeaderListSize: config.maxHeaderBytes,
  };
}

/** Options of node:http2 that hold for both sides. */
export function sessionOptions(config: HboneConfig, streams: number) {
  return {
    // Megabytes. The windows bound memory; node's own limit (10 MB) would refuse streams that they allow.
    maxSessionMemory: 64 + Math.ceil((streams * config.streamWindow) / MEBIBYTE),
    maxHeaderListPairs: 64,
    maxOutstandingPings: 4,
    maxSettings: 32,
    maxSessionInvalidFrames: 100,
    maxSessionRejectedStreams: 100,
  };
}

/**
 * Takes a session over: windows, PING, error listeners. `onClose` is called once, when the tunnel is gone. When the
 * connection breaks under the session, its streams fail with TunnelLostError; left alone, node would close them with
 * CANCEL, which reads as an end.
 */
export function superviseSession(
  session: Http2Session,
  socket: TLSSocket,
  config: HboneConfig,
  onClose: () => void,
): void {
  session.on('error', () => undefined);
  session.setLocalWindowSize(config.tunnelWindow);
  // A TLS alert after the handshake (our certificate was refused) is an error without a close: node:http2 would wait.
  socket.on('error', () => socket.destroy());
  // Before node's own listener, which would close the streams.
  socket.prependListener('close', () => {
    if (!session.destroyed) session.destroy(new TunnelLostError('the connection of the tunnel was closed'));
  });
  const stop = keepAlive(session, socket, config);
  session.once('close', () => {
    stop();
    onClose();
  });
}

/**
 * PINGs a session, and destroys it when one stays unanswered for pingTimeout. A connection that outlives its session
 * (a peer that does not take the last bytes) is cut at the second beat. Returns the stop.
 */
function keepAlive(session: Http2Session, socket: TLSSocket, config: HboneConfig): () => void {
  let deadline: NodeJS.Timeout | undefined;
  let lingers = false;
  const interval = setInterval(() => {
    if (session.destroyed) {
      if (lingers) socket.destroy();
      lingers = true;
      return;
    }
    if (deadline !== undefined) return;
    deadline = setTimeout(() => {
      session.destroy(new TunnelLostError(`no answer to PING for ${config.pingTimeout} ms`));
    }, config.pingTimeout);
    deadline.unref();
    session.ping((error: Error | null) => {
      if (error !== null) return;
      clearTimeout(deadline);
      deadline = undefined;
    });
  }, config.pingInterval);
  interval.unref();
  return () => {
    clearInterval(interval);
    clearTimeout(deadline);
  };
}

/** Whether a stream broke because its tunnel did, rather than by its peer's RST_STREAM. */
export function isTunnelLost(stream: Duplex, failure: Error | undefined): boolean {
  if (failure === undefined) return false;
  return !('code' in failure && failure.code === 'ERR_HTTP2_STREAM_ERROR') && 'rstCode' in stream;
}

/** Listens for errors that the stream's user will learn of by other means; an emitter without a listener kills us. */
export function guard(stream: Http2Stream): void {
  stream.on('error', () => undefined);
}
