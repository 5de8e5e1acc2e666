/** PeerAuthentications, written short. */
import { PLAINTEXT, peerAuthentication } from '../kit.ts';
import type { Case, Request } from '../kit.ts';

export type Mode = 'STRICT' | 'PERMISSIVE' | 'DISABLE' | 'UNSET';
export type Metadata = Readonly<Record<string, unknown>>;

export const mtls = (mode: Mode): { mtls: { mode: Mode } } => ({ mtls: { mode } });
export const selector = { matchLabels: { app: 'web' } };
export const mesh = (spec: unknown, metadata: Metadata = {}): unknown =>
  peerAuthentication(spec, { name: 'mesh', namespace: 'istio-system', ...metadata });
export const namespace = (spec: unknown, metadata: Metadata = {}): unknown =>
  peerAuthentication(spec, { name: 'ns', ...metadata });
export const workload = (spec: Record<string, unknown>, metadata: Metadata = {}): unknown =>
  peerAuthentication({ selector, ...spec }, { name: 'wl', ...metadata });
export const ports = (given: Readonly<Record<number, Mode | undefined>>): { portLevelMtls: unknown } => ({
  portLevelMtls: Object.fromEntries(
    Object.entries(given).map(([port, mode]) => [port, mode ? { mode } : {}]),
  ),
});
export const at = (port: number): Request => ({ ...PLAINTEXT, port });

export type Row = readonly [string, readonly unknown[], Request, 'allow' | 'deny', (string | null)?];

export const MESH = 'PeerAuthentication istio-system/mesh';
export const NS = 'PeerAuthentication shop/ns';
export const WL = 'PeerAuthentication shop/wl';

export const row = ([name, peers, request, verdict, by]: Row): Case => ({
  name: `PeerAuthentication: ${name}`,
  peers,
  request,
  verdict,
  ...(by === undefined ? {} : { by }),
});
