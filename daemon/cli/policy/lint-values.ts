/** Single values of a rule's field that do not mean what they look like (SEMANTICS.md 1.4 to 1.8). */
import { splitSpiffeId } from '../../mesh/ids.ts';
import { isTemplate } from '../../mesh/policy/match.ts';
import type { FieldValues } from '../../mesh/policy/model.ts';
import { normalizeTarget } from '../../mesh/policy/path.ts';
import type { PathNormalization } from '../../mesh/policy/path.ts';
import type { World } from './world.ts';

export interface MeshFacts {
  readonly rootNamespace: string;
  readonly trustDomain: string;
  readonly trustDomainAliases: readonly string[];
  readonly pathNormalization: PathNormalization;
  readonly defaultMode: 'strict' | 'permissive';
}

export interface ValueFacts {
  readonly mesh: MeshFacts;
  readonly world: World;
}

/** Why a value can not match anything, and the warning where it may still match. */
export type Oddity = { readonly never: boolean; readonly why: string } | undefined;

const never = (why: string): Oddity => ({ never: true, why });
const maybe = (why: string): Oddity => ({ never: false, why });

/** What is odd about one value of `field`. */
export function oddityOf({ field }: Pick<FieldValues, 'field'>, value: string, facts: ValueFacts): Oddity {
  switch (field) {
    case 'principals':
      return principal(value, facts) ?? stars(value);
    case 'namespaces':
      return namespace(value, facts.world) ?? stars(value);
    case 'serviceAccounts':
      return namespace(value.split('/')[0] ?? '', facts.world);
    case 'trustDomains':
      return trustDomain(value, facts.mesh);
    case 'requestPrincipals':
    case 'absent':
      return never('JSON Web Tokens and dynamic metadata are not supported: it is always absent');
    case 'remoteIpBlocks':
      return maybe('no proxy in front is trusted: this is the direct client, as ipBlocks');
    case 'hosts':
      return host(value) ?? stars(value);
    case 'methods':
      return /[a-z]/.test(value) ? never(`methods are upper case: "${value}" is none`) : stars(value);
    case 'paths':
      return path(value, facts.mesh.pathNormalization);
    case 'ports':
      return value === '15008' ? never("15008 is Culvert's own port: policies name the app's") : undefined;
    case 'header':
    case 'sni':
      return stars(value);
    case 'ipBlocks':
    case 'destinationIps':
      return undefined;
  }
}

function stars(value: string): Oddity {
  const inner = value.startsWith('*') ? value.slice(1) : value.endsWith('*') ? value.slice(0, -1) : value;
  return inner.includes('*')
    ? maybe(`"${value}": one * at the beginning or the end is a wildcard, any other is a literal star`)
    : undefined;
}

function principal(value: string, { mesh, world }: ValueFacts): Oddity {
  if (value.startsWith('spiffe://'))
    return never(`"${value}" must be written without spiffe://, or it matches nothing`);
  if (value.startsWith('*')) return undefined;
  const parts = value.split('/');
  const domain = parts[0] ?? '';
  const isPrefix = value.endsWith('*');
  if (!isPrefix && splitSpiffeId(`spiffe://${value}`) === undefined)
    return never(`"${value}" is no identity: those are <trust domain>/ns/<namespace>/sa/<service account>`);
  // A wildcard in the trust domain itself may fit.
  if (parts.length > 1 && !ownDomains(mesh).has(domain)) return never(foreign(domain, mesh));
  const place = parts[2];
  return place === undefined || (isPrefix && parts.length === 3) ? undefined : namespace(place, world);
}

function trustDomain(value: string, mesh: MeshFacts): Oddity {
  if (value.startsWith('*') || value.endsWith('*') || ownDomains(mesh).has(value)) return undefined;
  return never(foreign(value, mesh));
}

function foreign(domain: string, { trustDomain: own, trustDomainAliases }: MeshFacts): string {
  const hint =
    domain === 'cluster.local' && trustDomainAliases.length === 0
      ? '; without --trust-domain-aliases cluster.local is not taken for the own one'
      : '';
  return `trust domain ${domain} is not the mesh's (${own}), and peers of another are refused${hint}`;
}

/** The names in policies that mean identities of this mesh. */
function ownDomains({ trustDomain: own, trustDomainAliases }: MeshFacts): ReadonlySet<string> {
  const aliases = trustDomainAliases.length === 0 ? [] : [...trustDomainAliases, 'cluster.local'];
  return new Set([own, ...aliases]);
}

function namespace(name: string, { namespaces }: World): Oddity {
  const isKnown = namespaces.size === 0 || namespaces.has(name) || name.includes('*');
  return isKnown ? undefined : maybe(`there is no namespace ${name} among the files`);
}

function host(value: string): Oddity {
  return value.includes('/')
    ? never(`"${value}" is no host: neither scheme nor path belong there`)
    : undefined;
}

function path(value: string, normalization: PathNormalization): Oddity {
  if (/[?#]/.test(value))
    return never(`"${value}": query and fragment are cut off before paths are compared`);
  if (value.startsWith('*')) return stars(value);
  if (!value.startsWith('/')) return never(`"${value}" does not begin with /, as every path does`);
  if (isTemplate(value)) return undefined;
  const isPrefix = value.endsWith('*');
  const text = isPrefix ? value.slice(0, -1) : value;
  // What a prefix ends with may go on: `/a/.` is the beginning of `/a/.git`.
  const whole = isPrefix ? text.slice(0, text.lastIndexOf('/') + 1) : text;
  const normalized = normalizeTarget(whole, normalization);
  if (normalized !== whole)
    return never(
      `"${value}" is never a request's path: paths are normalised first (${normalization.toLowerCase()}${normalized === undefined ? '' : `, to "${normalized}"`})`,
    );
  return stars(value);
}
