/** `culvert lint`: would each policy object be accepted, and what does it really do. Pure. */
import { z } from 'zod';
import { parseAuthorizationPolicy } from '../../mesh/policy/parse.ts';
import type { ParsedPolicy } from '../../mesh/policy/parse.ts';
import { parsePeerAuthentication } from '../../mesh/policy/peer.ts';
import type { ParsedPeerAuthentication } from '../../mesh/policy/peer.ts';
import type { PolicyProblem } from '../../mesh/policy/model.ts';
import type { ManifestObject, Manifests } from '../io.ts';
import { sayAdmission } from './admission.ts';
import { sayOf } from './finding.ts';
import type { Finding, Say } from './finding.ts';
import { lintPeer } from './lint-peer.ts';
import { lintPolicy } from './lint-policy.ts';
import type { LintFacts } from './lint-policy.ts';
import type { MeshFacts } from './lint-values.ts';
import { worldOf } from './world.ts';

export interface Lint {
  /** Policy objects that were looked at. */
  readonly objects: number;
  /** By file and line. */
  readonly findings: readonly Finding[];
}

const GROUP = 'security.istio.io/';
const VERSIONS: ReadonlySet<string> = new Set(['v1', 'v1beta1']);
const KINDS: ReadonlySet<string> = new Set(['AuthorizationPolicy', 'PeerAuthentication']);
const FIELDS: ReadonlySet<string> = new Set(['apiVersion', 'kind', 'metadata', 'spec', 'status']);
const NAME = /^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$/;
const NAMESPACE = /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/;

const headSchema = z.looseObject({
  apiVersion: z.string().optional(),
  kind: z.string().optional(),
  metadata: z
    .looseObject({ name: z.unknown().optional(), namespace: z.unknown().optional() })
    .nullish()
    .catch(undefined),
});
type Head = z.infer<typeof headSchema>;

/** A policy object whose head is right, and all that its reader said. */
interface Read {
  readonly object: ManifestObject;
  readonly title: string;
  readonly say: Say;
  readonly parsed: ParsedPolicy | ParsedPeerAuthentication;
}

/** Looks at every policy among the files; all else there is what they are about. */
export function lint(manifests: Manifests, mesh: MeshFacts): Lint {
  const findings: Finding[] = manifests.problems.map(({ file, line, reason }) => ({
    file,
    line,
    severity: 'error',
    object: '',
    path: '',
    message: reason,
  }));
  let objects = 0;
  const read: Read[] = [];
  for (const object of manifests.objects) {
    const head = headSchema.safeParse(object.value);
    if (!head.success || !isPolicy(head.data)) continue;
    objects++;
    const one = readOne(object, head.data, findings);
    if (one !== undefined) read.push(one);
  }
  sayTwice(read);
  const peers = read.flatMap(({ parsed }) => ('peer' in parsed ? [parsed.peer] : []));
  const facts: LintFacts = { mesh, world: worldOf(manifests.objects), peers };
  for (const one of read) lintOne(one, facts);
  return { objects, findings: sorted(findings) };
}

/** Of Istio's group by its version or, where that is forgotten, by its kind. */
function isPolicy({ apiVersion = '', kind = '' }: Head): boolean {
  if (apiVersion.startsWith(GROUP)) return true;
  return KINDS.has(kind) && (!apiVersion.includes('/') || apiVersion.includes('istio.io/'));
}

function readOne(object: ManifestObject, head: Head, findings: Finding[]): Read | undefined {
  const { apiVersion = '', kind = '', metadata } = head;
  const name = typeof metadata?.name === 'string' ? metadata.name : '?';
  const namespace = typeof metadata?.namespace === 'string' ? metadata.namespace : 'default';
  const title = `${kind === '' ? 'object' : kind} ${namespace}/${name}`;
  const say = sayOf(object, title, findings);
  if (kind === 'RequestAuthentication') {
    say(
      'warning',
      [],
      'JSON Web Tokens are not supported: nothing validates one, and no request has a principal',
    );
    return undefined;
  }
  if (!KINDS.has(kind)) {
    say('error', ['kind'], `"${kind}" is neither AuthorizationPolicy nor PeerAuthentication`);
    return undefined;
  }
  if (!apiVersion.startsWith(GROUP) || !VERSIONS.has(apiVersion.slice(GROUP.length)))
    say('error', ['apiVersion'], `must be ${GROUP}v1 or ${GROUP}v1beta1`);
  sayHead(object.value, metadata, namespace, say);
  const parsed =
    kind === 'AuthorizationPolicy'
      ? parseAuthorizationPolicy(object.value)
      : parsePeerAuthentication(object.value);
  if (parsed !== undefined) return { object, title, say, parsed };
  say('error', ['metadata'], 'can not be read: a name is needed, and annotations and labels are texts');
  return undefined;
}

function sayHead(value: unknown, metadata: Head['metadata'], namespace: string, say: Say): void {
  for (const field of Object.keys(typeof value === 'object' && value !== null ? value : {}))
    if (!FIELDS.has(field)) say('error', [field], `unknown field "${field}"; does it belong into spec?`);
  const name = metadata?.name;
  if (typeof name === 'string' && !NAME.test(name))
    say('error', ['metadata', 'name'], `"${name}" is not a lower-case DNS name`);
  if (!NAMESPACE.test(namespace))
    say('error', ['metadata', 'namespace'], `"${namespace}" is no name of a namespace`);
  if (metadata?.namespace === undefined || metadata.namespace === null)
    say('note', ['metadata'], 'no namespace: taken as default, unless kubectl is told another');
}

function sayTwice(read: readonly Read[]): void {
  const first = new Map<string, ManifestObject>();
  for (const { object, title, say } of read) {
    const earlier = first.get(title);
    if (earlier === undefined) first.set(title, object);
    else
      say(
        'warning',
        ['metadata', 'name'],
        `is also in ${earlier.file}:${earlier.lineOf([]) ?? '?'}: the cluster can have only one of them`,
      );
  }
}

function lintOne({ object, say, parsed }: Read, facts: LintFacts): void {
  for (const { severity, path, reason } of parsed.problems) say(severity, path, reason);
  const isBroken = parsed.problems.some(isAboutSpec);
  if ('peer' in parsed) {
    if (!isBroken) lintPeer(parsed.peer, facts, say);
  } else if (!isBroken) {
    sayAdmission(object.value, parsed.policy, parsed.policy.namespace === facts.mesh.rootNamespace, say);
    const isWhole = parsed.problems.every(({ severity }) => severity !== 'error');
    lintPolicy(parsed.policy, isWhole, facts, say);
  }
}

/** The spec as a whole could not be read: nothing more can be said. */
function isAboutSpec({ severity, path, reason }: PolicyProblem): boolean {
  return severity === 'error' && path.length === 1 && reason.startsWith('the object is invalid');
}

function sorted(findings: readonly Finding[]): readonly Finding[] {
  const order = new Map<string, number>();
  for (const { file } of findings) if (!order.has(file)) order.set(file, order.size);
  const place = ({ file }: Finding): number => order.get(file) ?? 0;
  return findings.toSorted((a, b) => place(a) - place(b) || (a.line ?? 0) - (b.line ?? 0));
}
