/** What `route` can answer. */
import type { Ip, PodUid, Port, SpiffeId } from './ids.ts';
import type { Service, Workload } from './model.ts';
import type { Reason } from '../errors.ts';

/** The pod that dials; a `LocalPod` or a `Workload` is one. */
export interface RouteSource {
  readonly uid: PodUid;
  readonly ips: readonly Ip[];
  /** Our listeners in this pod: never a target. */
  readonly ownPorts?: readonly Port[];
}

/** One place that a tunnel may lead to: its far end is `address:15008`, the CONNECT asks for `address:port`. */
export interface TunnelTarget {
  readonly workload: Workload;
  /** Who must answer. */
  readonly identity: SpiffeId;
  readonly address: Ip;
  /** The app's port. */
  readonly port: Port;
}

export interface ClearTarget {
  readonly workload: Workload | undefined;
  readonly address: Ip;
  readonly port: Port;
}

interface Explained {
  readonly reason: Reason;
  /** Which rule decided, about whom: for records and `culvert why`. */
  readonly rule: string;
  /** The Service that was dialled, when one was. */
  readonly service: Service | undefined;
}

export type TunnelVerdict = Explained &
  TunnelTarget & {
    readonly kind: 'tunnel';
    /** Other endpoints of the Service, to try while no byte has been sent. At most 3. */
    readonly alternates: readonly TunnelTarget[];
  };
/** Dial `address:port` in the clear from the pod's own network. */
export type PassthroughVerdict = Explained &
  ClearTarget & { readonly kind: 'passthrough'; readonly alternates: readonly ClearTarget[] };
/** Dial `address:port` inside the source pod. */
export type SelfVerdict = Explained & {
  readonly kind: 'self';
  readonly address: Ip;
  readonly port: Port;
};
/** Ask again after the next change of state; after `holdTimeout` refuse with this reason. */
export type HoldVerdict = Explained & { readonly kind: 'hold'; readonly workload: Workload | undefined };
export type RefuseVerdict = Explained & { readonly kind: 'refuse'; readonly workload: Workload | undefined };

export type RouteVerdict = TunnelVerdict | PassthroughVerdict | SelfVerdict | HoldVerdict | RefuseVerdict;

/** A verdict to dial `target` in the clear. */
export function clear(
  reason: Reason,
  rule: string,
  target: ClearTarget,
  service: Service | undefined,
): PassthroughVerdict {
  return { kind: 'passthrough', reason, rule, service, ...target, alternates: [] };
}

/** A verdict to refuse at once. */
export function refuse(
  reason: Reason,
  rule: string,
  service: Service | undefined,
  workload?: Workload,
): RefuseVerdict {
  return { kind: 'refuse', reason, rule, service, workload };
}
