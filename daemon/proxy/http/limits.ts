/** What one HTTP connection may hold, and for how long. Every figure bounds memory or a wait. */

export interface HttpLimits {
  /** Request or status line and fields; more is 431, or 502 from an app. */
  readonly headBytes: number;
  readonly fields: number;
  /** From a head's first byte to its last. */
  readonly headTimeoutMs: number;
  /** Of a denied request's body, read and thrown away so that the connection can live on. */
  readonly discardedBytes: number;
  readonly discardTimeoutMs: number;
  /** How long a client whose connection we end is still heard, so that its last answer is not lost to a reset. */
  readonly lingerMs: number;
  /** Interim answers (1xx) to one request. */
  readonly interimAnswers: number;
  /** Trailer fields and chunk extensions of one body, each. */
  readonly trailerBytes: number;
  /** HTTP/2: requests at once, and bytes on their way of each. */
  readonly streams: number;
  readonly streamWindow: number;
  /** HTTP/2: streams that a client may reset, at once and a second (CVE-2023-44487). */
  readonly resetBurst: number;
  readonly resetsPerSecond: number;
}

export const HTTP_LIMITS: HttpLimits = {
  headBytes: 65_536,
  fields: 100,
  headTimeoutMs: 60_000,
  discardedBytes: 65_536,
  discardTimeoutMs: 5_000,
  lingerMs: 1_000,
  interimAnswers: 100,
  trailerBytes: 16_384,
  streams: 100,
  streamWindow: 131_072,
  resetBurst: 1_000,
  resetsPerSecond: 200,
};
