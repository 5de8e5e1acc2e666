/** PeerAuthentication: what a workload's port accepts (SEMANTICS.md section 2). Pure; parsing never throws. */
import { portNumber } from './match.ts';
import type {
  PeerAuthentication,
  PeerMode,
  PolicyProblem,
  PolicySettings,
  PolicyTarget,
  RuleRef,
} from './model.ts';
import { selectorProblems, zodProblems } from './problems.ts';
import { metadataSchema, peerAuthenticationSpecSchema, selectorSchema } from './schemas.ts';
import type { Selector } from './schemas.ts';

export interface ParsedPeerAuthentication {
  readonly peer: PeerAuthentication;
  readonly problems: readonly PolicyProblem[];
}

export interface PeerDecision {
  readonly mode: 'strict' | 'permissive';
  /** The object that says so; undefined: the mesh's default. */
  readonly by: RuleRef | undefined;
}

/** Reads `object`; undefined when not even its name can be told. A broken one demands mTLS: it closes, never opens. */
export function parsePeerAuthentication(object: unknown): ParsedPeerAuthentication | undefined {
  const table = typeof object === 'object' && object !== null ? new Map(Object.entries(object)) : new Map();
  const metadata = metadataSchema.safeParse(table.get('metadata'));
  if (!metadata.success) return undefined;
  const { name, creationTimestamp } = metadata.data;
  const created = Date.parse(creationTimestamp ?? '');
  const common = {
    name,
    namespace: metadata.data.namespace ?? 'default',
    createdMs: Number.isNaN(created) ? 0 : created,
  };
  const spec = peerAuthenticationSpecSchema.safeParse(table.get('spec') ?? {});
  if (!spec.success) {
    const effect = 'the object is invalid: it counts as STRICT';
    const selected = selectorSchema.nullish().safeParse(fieldOf(table.get('spec'), 'selector'));
    return {
      peer: { ...common, selector: labelsOf(selected.data), mode: 'STRICT', ports: {} },
      problems: [...zodProblems(spec.error, ['spec']), { path: ['spec'], reason: effect, severity: 'error' }],
    };
  }
  const problems: PolicyProblem[] = [];
  const selector = labelsOf(spec.data.selector);
  problems.push(...selectorProblems(selector ?? {}));
  const ports = readPorts(spec.data.portLevelMtls, problems);
  if (selector === undefined && Object.keys(ports).length > 0)
    problems.push({
      path: ['spec', 'portLevelMtls'],
      reason: 'needs a selector with at least one label: its ports are ignored',
      severity: 'error',
    });
  if (spec.data.selector && selector === undefined)
    problems.push({
      path: ['spec', 'selector'],
      reason: 'an empty selector is no selector: the object is for the whole namespace',
      severity: 'warning',
    });
  const mode = spec.data.mtls?.mode ?? 'UNSET';
  return { peer: { ...common, selector, mode, ports: selector === undefined ? {} : ports }, problems };
}

/** undefined: it has no labels, or is none, and so selects nothing in particular. */
function labelsOf(selector: Selector | null | undefined): Readonly<Record<string, string>> | undefined {
  const labels = selector?.matchLabels ?? {};
  return Object.keys(labels).length === 0 ? undefined : labels;
}

function fieldOf(table: unknown, name: string): unknown {
  return typeof table === 'object' && table !== null ? new Map(Object.entries(table)).get(name) : undefined;
}

function readPorts(
  given:
    | Readonly<Record<string, { readonly mode?: PeerMode | null | undefined } | null | undefined>>
    | null
    | undefined,
  problems: PolicyProblem[],
): Record<number, PeerMode> {
  const ports: Record<number, PeerMode> = {};
  for (const [text, mtls] of Object.entries(given ?? {})) {
    const port = portNumber(text);
    if (port === undefined || port === 0)
      problems.push({
        path: ['spec', 'portLevelMtls', text],
        reason: `"${text}" is no port from 1 to 65535: ignored`,
        severity: 'error',
      });
    else ports[port] = mtls?.mode ?? 'UNSET';
  }
  return ports;
}

/** The objects that can matter for a workload, the winner of each level. */
export interface PeerLevels {
  readonly mesh: PeerAuthentication | undefined;
  readonly namespace: PeerAuthentication | undefined;
  readonly workload: PeerAuthentication | undefined;
}

/** The winners for `target` among `all`: at one level only the oldest counts, and never its ports with another's. */
export function peerLevels(
  all: Iterable<PeerAuthentication>,
  target: PolicyTarget,
  { rootNamespace }: PolicySettings,
): PeerLevels {
  let [mesh, namespace, workload]: (PeerAuthentication | undefined)[] = [];
  for (const one of all) {
    if (one.namespace === rootNamespace && one.selector === undefined) mesh = older(mesh, one);
    if (one.namespace !== target.namespace || one.namespace === rootNamespace) continue;
    if (one.selector === undefined) namespace = older(namespace, one);
    else if (isSelected(one.selector, target)) workload = older(workload, one);
  }
  return { mesh, namespace, workload };
}

/** What `port` of the workload accepts. DISABLE accepts both: a node does not turn tunnels away (SEMANTICS.md 2.1). */
export function peerMode(levels: PeerLevels, port: number, byDefault: 'strict' | 'permissive'): PeerDecision {
  const { mesh, namespace, workload } = levels;
  const own = workload?.ports[port];
  if (workload !== undefined && own !== undefined && own !== 'UNSET') return decided(workload, own);
  for (const level of [workload, namespace, mesh])
    if (level !== undefined && level.mode !== 'UNSET') return decided(level, level.mode);
  return { mode: byDefault, by: undefined };
}

function decided({ namespace, name }: PeerAuthentication, mode: PeerMode): PeerDecision {
  return {
    mode: mode === 'STRICT' ? 'strict' : 'permissive',
    by: { kind: 'PeerAuthentication', namespace, name, rule: undefined },
  };
}

function older(a: PeerAuthentication | undefined, b: PeerAuthentication): PeerAuthentication {
  if (a === undefined || b.createdMs < a.createdMs) return b;
  const isTie = a.createdMs === b.createdMs;
  return isTie && `${b.namespace}/${b.name}` < `${a.namespace}/${a.name}` ? b : a;
}

/** Whether every pair of a selector is among the labels. */
export function isSelected(selector: Readonly<Record<string, string>>, { labels }: PolicyTarget): boolean {
  return Object.entries(selector).every(([key, value]) => labels[key] === value);
}
