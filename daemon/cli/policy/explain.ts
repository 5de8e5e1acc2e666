/** One question to the policies, and all that an answer to it can say. Pure. */
import type { Ip, SpiffeId } from '../../mesh/ids.ts';
import { spiffeId } from '../../mesh/ids.ts';
import { whyNotEnrollable } from '../../mesh/enrollable.ts';
import type { Workload } from '../../mesh/model.ts';
import { peerOf } from '../../mesh/policy/compile.ts';
import { evaluate, missing, needsHttp } from '../../mesh/policy/evaluate.ts';
import { judge } from '../../mesh/policy/judge.ts';
import type { Judgement } from '../../mesh/policy/judge.ts';
import type { HttpRequest, PolicyRequest, PolicyTarget } from '../../mesh/policy/model.ts';
import { peerMode } from '../../mesh/policy/peer.ts';
import type { MeshState } from '../../mesh/state.ts';
import { judgeUnread, written } from './batch.ts';
import type { WrittenRef } from './batch.ts';
import { failure } from './failure.ts';
import { BAD_REQUEST, httpRequest } from './request.ts';
import type { WrittenRequest } from './request.ts';

export interface Question {
  readonly source: {
    readonly workload: Workload | undefined;
    /** Given, instead of a workload's. */
    readonly id: SpiffeId | undefined;
    readonly ip: Ip | undefined;
    readonly plaintext: boolean;
  };
  readonly target: PolicyTarget & { readonly workload: Workload | undefined; readonly ip: Ip | undefined };
  readonly port: number;
  readonly sni: string | undefined;
  readonly http: WrittenRequest | undefined;
}

interface Decision {
  readonly verdict: 'allow' | 'deny';
  readonly by: WrittenRef | null;
  readonly why: string;
}

export interface NearRule {
  /** `shop/web`. */
  readonly policy: string;
  readonly rule: number;
  readonly action: 'ALLOW' | 'DENY' | 'CUSTOM';
  readonly dryRun: boolean;
  readonly matches: boolean;
  /** Why not, field by field. */
  readonly failing: readonly string[];
}

export interface Explanation extends Decision {
  readonly source: {
    readonly name: string | null;
    readonly identity: string | null;
    readonly ip: string | null;
    readonly state: string;
  };
  readonly destination: { readonly name: string; readonly ip: string | null; readonly state: string };
  readonly port: number;
  readonly mtls: { readonly mode: 'strict' | 'permissive'; readonly by: WrittenRef | null };
  /** false: the destination is not in the mesh; `policies` is what they would say. */
  readonly enforced: boolean;
  readonly policies: Decision;
  /** With dry-run policies in force. */
  readonly dryRun: Decision | null;
  /** Whether requests on the port are read. */
  readonly readsHttp: boolean;
  /** Those that match, then the nearest. */
  readonly rules: readonly NearRule[];
  /** Policies of the namespace and the root namespace that do not select it. */
  readonly notSelecting: readonly string[];
  readonly notes: readonly string[];
}

/** Rules in an answer. */
const MAX_RULES = 50;

/** Answers `question` as a node would. */
export function explain(state: MeshState, question: Question): Explanation {
  const { target, port } = question;
  const { policies: store, settings } = state;
  const id = identityOf(state, question);
  const http = question.http && httpRequest(question.http, settings.pathNormalization);
  const asked = requestOf(question, id, http === BAD_REQUEST ? undefined : http);
  const verdict = decided(
    http === BAD_REQUEST
      ? judgeUnread(store, target, asked, settings.defaultMode)
      : judge(store, target, asked, settings.defaultMode),
  );
  const applying = store.policiesOf(target);
  const mode = peerMode(store.levelsOf(target), port, settings.defaultMode);
  const enforced = target.workload === undefined || isInMesh(state, target.workload);
  return {
    ...(enforced ? verdict : { verdict: 'allow', by: null, why: NOT_IN_MESH }),
    source: {
      name: nameOf(question.source.workload),
      identity: id ?? null,
      ip: asked.sourceIp ?? null,
      state: stateOf(state, question.source.workload),
    },
    destination: {
      name: nameOf(target.workload) ?? `${target.namespace}/(any)`,
      ip: asked.destinationIp ?? null,
      state: stateOf(state, target.workload),
    },
    port,
    mtls: { mode: mode.mode, by: written(mode.by) },
    enforced,
    policies: verdict,
    dryRun: applying.dryRun === undefined ? null : decided(evaluate(applying.dryRun, asked)),
    readsHttp: needsHttp(applying, port),
    rules: nearRules(state, target, asked).slice(0, MAX_RULES),
    notSelecting: notSelecting(state, target),
    notes: notesOf(state, question, needsHttp(applying, port)),
  };
}

const NOT_IN_MESH = 'the destination is not in the mesh: nothing is enforced there';

/** As far as labels say; one whose namespace is not given may be. */
function isInMesh(state: MeshState, workload: Workload): boolean {
  return state.labelling(workload) !== 'absent' && whyNotEnrollable(workload) === undefined;
}

function decided({ verdict, by, why }: Judgement): Decision {
  return { verdict, by: written(by), why };
}

/** As the proxy would prove it: only between pods of the mesh. */
function identityOf(state: MeshState, { source, target }: Question): SpiffeId | undefined {
  if (source.plaintext) return undefined;
  if (source.id !== undefined) return source.id;
  const { workload } = source;
  if (workload === undefined || !isInMesh(state, workload)) return undefined;
  if (target.workload !== undefined && !isInMesh(state, target.workload)) return undefined;
  return spiffeId(state.settings.trustDomain, workload.namespace, workload.serviceAccount);
}

function requestOf(
  question: Question,
  id: SpiffeId | undefined,
  http: HttpRequest | undefined,
): PolicyRequest {
  const { source, target } = question;
  return {
    peer: id && peerOf(id),
    sourceIp: source.ip ?? source.workload?.ips[0],
    destinationIp: target.ip ?? target.workload?.ips[0],
    destinationPort: question.port,
    sni: question.sni,
    http,
  };
}

/** Every rule that applies to the destination, the nearest first; among equals in the order of evaluation. */
function nearRules(state: MeshState, target: PolicyTarget, asked: PolicyRequest): readonly NearRule[] {
  const applying = state.policies.policiesOf(target);
  const { custom, deny, allow } = applying.dryRun ?? applying;
  const known = new Map(
    [...state.authorizationPolicies()].map((one) => [`${one.namespace}/${one.name}`, one]),
  );
  const rules: NearRule[] = [];
  for (const [action, index] of [
    ['CUSTOM', custom],
    ['DENY', deny],
    ['ALLOW', allow],
  ] as const)
    for (const rule of index.rules) {
      const policy = `${rule.ref.namespace}/${rule.ref.name}`;
      const object = known.get(policy);
      const names = missing(rule, asked, action !== 'ALLOW');
      rules.push({
        policy,
        rule: rule.ref.rule ?? 0,
        action,
        dryRun: object?.dryRun ?? false,
        matches: names.length === 0,
        failing: names.map((name) => failure(name, object, rule.ref.rule, asked)),
      });
    }
  return rules.toSorted((a, b) => a.failing.length - b.failing.length);
}

function notSelecting(state: MeshState, target: PolicyTarget): readonly string[] {
  const { rootNamespace } = state.settings;
  return [...state.authorizationPolicies()]
    .filter(({ namespace }) => namespace === target.namespace || namespace === rootNamespace)
    .filter(
      ({ selector, isForWaypoint }) =>
        isForWaypoint || Object.entries(selector ?? {}).some(([key, value]) => target.labels[key] !== value),
    )
    .map(({ namespace, name }) => `${namespace}/${name}`)
    .sort();
}

function nameOf(workload: Workload | undefined): string | null {
  return workload === undefined ? null : `${workload.namespace}/${workload.name}`;
}

/** How far a pod is in the mesh. */
function stateOf(state: MeshState, workload: Workload | undefined): string {
  if (workload === undefined) return 'not a pod that is known';
  const label = state.labelling(workload);
  if (label === 'absent') return 'not in the mesh (no label culvert.dev/mesh=enabled)';
  const never = whyNotEnrollable(workload);
  if (never !== undefined) return `can't be enrolled: ${never.text}`;
  const published = state.published(workload.uid)?.state;
  if (published !== undefined) return published;
  return label === 'enabled'
    ? 'in the mesh by its label'
    : 'in the mesh, if its namespace is (which is not given)';
}

function notesOf(state: MeshState, { source, http }: Question, readsHttp: boolean): readonly string[] {
  const notes: string[] = [];
  const { workload } = source;
  if (workload !== undefined && !source.plaintext && source.id === undefined) {
    if (!isInMesh(state, workload))
      notes.push('the source is not in the mesh: judged as plaintext, with no identity');
  }
  if (readsHttp && http === undefined)
    notes.push(
      'policies look at requests on this port; judged as bytes that are not HTTP: give --method and --path',
    );
  if (!readsHttp && http !== undefined)
    notes.push('no policy looks at requests on this port: they are not read');
  return notes;
}
