/** Cases of `culvert why --batch`, written short: what a stranger would put into the file. */

export interface Http {
  readonly method?: string;
  readonly path?: string;
  readonly host?: string;
  readonly headers?: Readonly<Record<string, string | readonly string[]>>;
}

export interface Request {
  /** A SPIFFE ID; null: plaintext. */
  readonly from?: string | null;
  readonly srcNamespace?: string;
  readonly ip?: string;
  readonly to?: string;
  readonly port?: number;
  readonly namespace?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly sni?: string;
  readonly http?: Http;
}

export interface Mesh {
  readonly rootNamespace?: string;
  readonly trustDomain?: string;
  readonly trustDomainAliases?: readonly string[];
  readonly pathNormalization?: string;
}

export interface Case {
  readonly name: string;
  readonly policies?: readonly unknown[];
  readonly peers?: readonly unknown[];
  readonly mesh?: Mesh;
  readonly request: Request;
  readonly verdict: 'allow' | 'deny';
  /** `Kind ns/name` or `Kind ns/name N`; null: nothing in particular; undefined: not said. */
  readonly by?: string | null;
}

/** Who asks, where nothing else is said: account `front` of `shop` asks a workload `web` of `shop` on port 8080. */
const ASKED = {
  from: 'spiffe://cluster.local/ns/shop/sa/front',
  ip: '10.0.0.1',
  to: '10.0.0.2',
  port: 8080,
  namespace: 'shop',
  labels: { app: 'web', version: 'v1' },
} as const;

/** The line that `culvert why --batch` reads. */
export function lineOf({ name, policies, peers, mesh, request }: Case): string {
  const asked = { ...ASKED, ...request };
  return JSON.stringify({
    name,
    policies: policies ?? [],
    peerAuthentications: peers ?? [],
    mesh,
    request: {
      srcPrincipal: asked.from,
      srcNamespace: asked.srcNamespace ?? 'shop',
      srcIp: asked.ip,
      dstIp: asked.to,
      dstPort: asked.port,
      dstNamespace: asked.namespace,
      dstLabels: asked.labels,
      sni: asked.sni,
      http: asked.http && { method: 'GET', path: '/', host: 'web.shop', headers: {}, ...asked.http },
    },
  });
}

type Metadata = Readonly<Record<string, unknown>>;

export function policy(spec: unknown, metadata: Metadata = {}): unknown {
  return object('AuthorizationPolicy', spec, metadata);
}

export function peerAuthentication(spec: unknown, metadata: Metadata = {}): unknown {
  return object('PeerAuthentication', spec, metadata);
}

function object(kind: string, spec: unknown, metadata: Metadata): unknown {
  return {
    apiVersion: 'security.istio.io/v1',
    kind,
    metadata: { name: 'one', namespace: 'shop', ...metadata },
    spec,
  };
}

export const allow = (...rules: readonly unknown[]): unknown => policy({ action: 'ALLOW', rules });
export const deny = (...rules: readonly unknown[]): unknown => policy({ action: 'DENY', rules });
export const source = (...sources: readonly unknown[]): { from: unknown } => ({
  from: sources.map((one) => ({ source: one })),
});
export const operation = (...operations: readonly unknown[]): { to: unknown } => ({
  to: operations.map((one) => ({ operation: one })),
});
export const when = (
  ...conditions: readonly (readonly [string, unknown, unknown?])[]
): { when: unknown } => ({
  when: conditions.map(([key, values, notValues]) => ({ key, values, notValues })),
});

export interface Matching {
  readonly name: string;
  readonly rule: unknown;
  readonly metadata?: Metadata;
  readonly mesh?: Mesh;
  /** What the requests that match and those that don't have in common. */
  readonly common?: Request;
  readonly yes?: Readonly<Record<string, Request>>;
  readonly no?: Readonly<Record<string, Request>>;
}

/** One rule in an ALLOW and in a DENY: what matches is let in by the one and turned away by the other. */
export function matching({ name, rule, metadata, mesh, common, yes, no }: Matching): readonly Case[] {
  const both = (request: Request, what: string, matches: boolean): Case[] => {
    const asked = { request: { ...common, ...request }, ...(mesh === undefined ? {} : { mesh }) };
    return [
      {
        ...asked,
        name: `${name}: ${what} ${matches ? 'is allowed' : 'is not allowed'} by it`,
        policies: [policy({ rules: [rule] }, metadata)],
        verdict: matches ? 'allow' : 'deny',
      },
      {
        ...asked,
        name: `${name}: ${what} ${matches ? 'is denied' : 'is not denied'} by it`,
        policies: [policy({ action: 'DENY', rules: [rule] }, metadata)],
        verdict: matches ? 'deny' : 'allow',
      },
    ];
  };
  return [
    ...Object.entries(yes ?? {}).flatMap(([what, request]) => both(request, what, true)),
    ...Object.entries(no ?? {}).flatMap(([what, request]) => both(request, what, false)),
  ];
}

export const PLAINTEXT: Request = { from: null };

/** An identity: `id('shop', 'front')`. */
export function id(namespace: string, account: string, trustDomain = 'cluster.local'): string {
  return `spiffe://${trustDomain}/ns/${namespace}/sa/${account}`;
}

/** A case as a row: its name, the policies, who asks, the verdict, and who decided. */
export type Row = readonly [string, readonly unknown[], Request, 'allow' | 'deny', (string | null)?];

export const row = ([name, policies, request, verdict, by]: Row): Case => ({
  name,
  policies,
  request,
  verdict,
  ...(by === undefined ? {} : { by }),
});
