/** What a policy is once it has been read, and what it is asked. Plain data; crosses threads by structured clone. */
import type { Ip } from '../ids.ts';

export type PolicyAction = 'ALLOW' | 'DENY' | 'AUDIT' | 'CUSTOM';

/** One `source`, `operation` or condition field: its values, and those of its `not` twin. */
export interface FieldValues {
  readonly field: Field;
  /** Name of the header, of `request.headers[x]`. */
  readonly header?: string;
  /** undefined: not constrained that way. */
  readonly values: readonly string[] | undefined;
  readonly notValues: readonly string[] | undefined;
}

export type Field =
  | 'principals'
  | 'namespaces'
  | 'serviceAccounts'
  | 'trustDomains'
  | 'ipBlocks'
  | 'remoteIpBlocks'
  | 'requestPrincipals'
  | 'ports'
  | 'destinationIps'
  | 'sni'
  | 'hosts'
  | 'methods'
  | 'paths'
  | 'header'
  /** Something of a token or of Envoy's metadata, which nothing here provides: always absent. */
  | 'absent';

/** Fields ANDed. */
export type Match = readonly FieldValues[];

export interface PolicyRule {
  /** Index in `spec.rules`. */
  readonly index: number;
  /** Entries ORed; empty: any. */
  readonly from: readonly Match[];
  readonly to: readonly Match[];
  /** ANDed. */
  readonly when: Match;
}

/** An AuthorizationPolicy. A rule that could not be read is left out of `rules` and told in `problems`. */
export interface AuthorizationPolicy {
  readonly namespace: string;
  readonly name: string;
  readonly action: PolicyAction;
  readonly rules: readonly PolicyRule[];
  /** undefined: every workload of its scope. */
  readonly selector: Readonly<Record<string, string>> | undefined;
  /** For waypoints and gateways: no node enforces it. */
  readonly isForWaypoint: boolean;
  readonly dryRun: boolean;
}

export type PeerMode = 'UNSET' | 'DISABLE' | 'PERMISSIVE' | 'STRICT';

export interface PeerAuthentication {
  readonly namespace: string;
  readonly name: string;
  readonly createdMs: number;
  readonly selector: Readonly<Record<string, string>> | undefined;
  readonly mode: PeerMode;
  readonly ports: Readonly<Record<number, PeerMode>>;
}

/** Something in an object that is wrong or does not do what it seems to. */
export interface PolicyProblem {
  /** Below the object: `['spec', 'rules', 0, 'when', 1, 'key']`. */
  readonly path: readonly (string | number)[];
  readonly reason: string;
  /** `error`: Istio's admission would refuse it. */
  readonly severity: 'error' | 'warning';
}

/** A proven identity, in the forms that policies name it. */
export interface PolicyPeer {
  /** `<trust domain>/ns/<ns>/sa/<sa>`. */
  readonly principal: string;
  readonly trustDomain: string;
  readonly namespace: string;
  /** `<ns>/<sa>`. */
  readonly account: string;
}

/** What is known of a connection or request when a policy is asked. */
export interface PolicyRequest {
  /** From the verified certificate; undefined for plaintext. */
  readonly peer: PolicyPeer | undefined;
  readonly sourceIp: Ip | undefined;
  readonly destinationIp: Ip | undefined;
  /** The workload's port. */
  readonly destinationPort: number;
  readonly sni: string | undefined;
  /** undefined: the bytes are not HTTP, or nothing is known of them. */
  readonly http: HttpRequest | undefined;
}

export interface HttpRequest {
  readonly method: string;
  /** Normalised, without query and fragment. */
  readonly path: string;
  /** Normalised, with query: what a condition on the header `:path` sees. As `path` when not given. */
  readonly target?: string;
  /** Host or :authority as the client sent it. */
  readonly host: string | undefined;
  /** Lower-case name → values joined with `,`. */
  readonly headers: ReadonlyMap<string, string>;
}

/** Mesh-wide settings that policies are read with. */
export interface PolicySettings {
  readonly rootNamespace: string;
  readonly trustDomain: string;
  /** When there are any, `cluster.local`, the own and the aliases mean all of them (SEMANTICS.md 1.11). */
  readonly trustDomainAliases: readonly string[];
}

/** Where a rule stands. */
export interface RuleRef {
  readonly kind: 'AuthorizationPolicy' | 'PeerAuthentication';
  readonly namespace: string;
  readonly name: string;
  /** Index in `spec.rules`; undefined when no single rule decided. */
  readonly rule: number | undefined;
}

/** The labels and namespace of the workload that is asked about. */
export interface PolicyTarget {
  readonly namespace: string;
  readonly labels: Readonly<Record<string, string>>;
}
