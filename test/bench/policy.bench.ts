/**
 * What policies cost: `node test/bench/policy.bench.ts`. One decision, and a change until everybody who is concerned by
 * it has been asked again, by number of policies (10 rules each) over 50 namespaces and 5,000 workloads. CPU time, the
 * mean of many. Prints a table and one JSON line.
 */
import assert from 'node:assert/strict';
import { parseIp, parseSpiffeId } from '../../daemon/mesh/ids.ts';
import { peerOf } from '../../daemon/mesh/policy/compile.ts';
import { judge } from '../../daemon/mesh/policy/judge.ts';
import type { HttpRequest, PolicyRequest, PolicyTarget } from '../../daemon/mesh/policy/model.ts';
import { parseAuthorizationPolicy } from '../../daemon/mesh/policy/parse.ts';
import { parsePeerAuthentication } from '../../daemon/mesh/policy/peer.ts';
import { PolicyStore } from '../../daemon/mesh/policy/store.ts';
import { table } from './report.ts';

const NAMESPACES = 50;
const WORKLOADS = 5_000;
const RULES = 10;
/** The kernel's account of a thread's time is up to 4 ms late. */
const BUDGET_US = 200_000;
const REQUESTS = 5_000;
const ROOT = 'istio-system';

interface World {
  readonly name: string;
  readonly policies: number;
  /** Where the i-th policy is, and whom it selects. */
  readonly place: (i: number) => { namespace: string; app: string | undefined };
}

/** A third for all of a namespace, the others for one of its 20 apps (5 workloads each). */
const spread = (i: number): { namespace: string; app: string | undefined } => ({
  namespace: `ns${i % NAMESPACES}`,
  app: i % 3 === 0 ? undefined : `app${Math.floor(i / NAMESPACES) % 20}`,
});
const WORLDS: readonly World[] = [
  { name: '10, spread', policies: 10, place: spread },
  { name: '1,000, spread', policies: 1_000, place: spread },
  { name: '10,000, spread', policies: 10_000, place: spread },
  { name: '1,000 for one workload', policies: 1_000, place: () => ({ namespace: 'ns0', app: 'app0' }) },
  { name: '10,000 for one workload', policies: 10_000, place: () => ({ namespace: 'ns0', app: 'app0' }) },
  { name: '1,000 for the whole mesh', policies: 1_000, place: () => ({ namespace: ROOT, app: undefined }) },
];

/** Ten rules as people write them: most name identities, some addresses and ports, two speak of HTTP. */
function rules(i: number): unknown[] {
  return Array.from({ length: RULES }, (_, k) => {
    const [ns, sa, port] = [
      `ns${(i + k) % NAMESPACES}`,
      `sa${(i * 7 + k) % 100}`,
      String(8_000 + ((i + k) % 20)),
    ];
    const to = [{ operation: { ports: [port] } }];
    if (k < 4) return { from: [{ source: { principals: [`cluster.local/ns/${ns}/sa/${sa}`] } }], to };
    if (k < 6) return { from: [{ source: { namespaces: [ns] } }], to };
    if (k === 6) return { from: [{ source: { serviceAccounts: [`${ns}/${sa}`] } }], to };
    if (k === 7) return { from: [{ source: { ipBlocks: [`10.${i % 250}.${k}.0/24`] } }], to };
    if (k === 8) return { to: [{ operation: { paths: [`/api/${i}/*`], methods: ['GET'] } }] };
    return {
      from: [{ source: { principals: [`*/sa/${sa}`] } }],
      when: [{ key: 'request.headers[x-team]', values: [`t${i}`] }],
    };
  });
}

function policyOf(i: number, { place }: World): { namespace: string; name: string; object: unknown } {
  const { namespace, app } = place(i);
  const name = `p${i}`;
  const selector = app === undefined ? {} : { selector: { matchLabels: { app } } };
  const action = i % 4 === 0 ? 'DENY' : 'ALLOW';
  return {
    namespace,
    name,
    object: { metadata: { namespace, name }, spec: { action, rules: rules(i), ...selector } },
  };
}

const workloads: readonly PolicyTarget[] = Array.from({ length: WORKLOADS }, (_, i) => ({
  namespace: `ns${i % NAMESPACES}`,
  labels: { app: `app${Math.floor(i / NAMESPACES) % 20}`, 'pod-template-hash': `h${i % 7}` },
}));

function build(world: World): PolicyStore {
  const store = new PolicyStore({
    rootNamespace: ROOT,
    trustDomain: 'cluster.local',
    trustDomainAliases: [],
  });
  for (let i = 0; i < world.policies; i++) set(store, world, i);
  const strict = { metadata: { namespace: ROOT, name: 'default' }, spec: { mtls: { mode: 'STRICT' } } };
  const { peer } = parsePeerAuthentication(strict) ?? assert.fail();
  store.setPeerAuthentication(ROOT, 'default', peer);
  return store;
}

function set(store: PolicyStore, world: World, i: number): void {
  const { namespace, name, object } = policyOf(i, world);
  const { policy, problems } = parseAuthorizationPolicy(object) ?? assert.fail();
  assert.deepEqual(problems, []);
  store.setPolicy(namespace, name, policy);
}

function request(i: number, http: HttpRequest | undefined): PolicyRequest {
  const id = parseSpiffeId(`spiffe://cluster.local/ns/ns${i % NAMESPACES}/sa/sa${i % 100}`) ?? assert.fail();
  return {
    peer: peerOf(id),
    sourceIp: parseIp(`10.${i % 250}.${i % 9}.7`),
    destinationIp: parseIp('10.0.0.2'),
    destinationPort: 8_000 + (i % 20),
    sni: undefined,
    http,
  };
}

const HTTP: HttpRequest = {
  method: 'GET',
  path: '/api/9/x',
  host: 'web',
  headers: new Map([['x-team', 't9']]),
};
const bytes = Array.from({ length: REQUESTS }, (_, i) => request(i * 31, undefined));
const requests = Array.from({ length: REQUESTS }, (_, i) => request(i * 31, HTTP));

/** CPU µs a call, the mean over at least `BUDGET_US`: wall time on a busy machine is other people's. */
function meanUs(call: (i: number) => void, leastCalls = 1): number {
  const before = process.threadCpuUsage();
  for (let calls = 1; ; calls++) {
    call(calls);
    if (calls % leastCalls > 0) continue;
    const { user, system } = process.threadCpuUsage(before);
    if (user + system >= BUDGET_US) return (user + system) / calls;
  }
}

/** µs a decision, over the workloads that the policies are for. */
function decisionUs(
  store: PolicyStore,
  targets: readonly PolicyTarget[],
  asked: readonly PolicyRequest[],
): number {
  const ask = (i: number): void => {
    const [target, one] = [targets[i % targets.length], asked[i % asked.length]];
    if (target !== undefined && one !== undefined) judge(store, target, one, 'permissive');
  };
  for (let i = 0; i < targets.length; i++) ask(i);
  return meanUs(ask, 1_000);
}

interface Figures {
  /** µs a decision: bytes, and a request of HTTP. */
  readonly decision: number;
  readonly httpDecision: number;
  /** ms: the store told of a change, and nobody asked. */
  readonly change: number;
  /** ms: the same, and the first who is concerned asked. */
  readonly changeAndFirst: number;
  /** ms: the same, and all that are concerned asked: what re-judging costs. */
  readonly changeAndAll: number;
  readonly concerned: number;
  /** ms: from objects to a store, each workload asked once. */
  readonly start: number;
}

function measure(world: World): Figures {
  const { namespace, app } = world.place(0);
  const concerned = workloads.filter(
    (one) =>
      (namespace === ROOT || one.namespace === namespace) && (app === undefined || one.labels['app'] === app),
  );
  const asked = world.name.includes('spread') ? workloads : concerned;
  const [one] = bytes;
  if (one === undefined) throw new RangeError('nobody asks');
  const all = (store: PolicyStore, targets: readonly PolicyTarget[]): void => {
    for (const target of targets) judge(store, target, one, 'permissive');
  };
  let store = build(world);
  const start = meanUs(() => {
    store = build(world);
    all(store, workloads);
  });
  const change = (then: readonly PolicyTarget[]): number =>
    meanUs(() => {
      set(store, world, 0);
      all(store, then);
    }) / 1_000;
  return {
    start: start / 1_000,
    decision: decisionUs(store, asked, bytes),
    httpDecision: decisionUs(store, asked, requests),
    change: change([]),
    changeAndFirst: change(concerned.slice(0, 1)),
    changeAndAll: change(concerned),
    concerned: concerned.length,
  };
}

const HEAD = [
  'policies',
  'decision µs',
  'HTTP µs',
  'change ms',
  '+ first ms',
  '+ all ms',
  '(of)',
  'start ms',
];
const cell = (value: number): string => value.toFixed(value < 10 ? 2 : 0);

function row(world: string, one: Figures): string[] {
  const figures = [one.decision, one.httpDecision, one.change, one.changeAndFirst, one.changeAndAll];
  return [world, ...figures.map(cell), String(one.concerned), cell(one.start)];
}

const results: (Figures & { readonly world: string })[] = [];
for (const world of WORLDS) {
  const figures = measure(world);
  results.push({ world: world.name, ...figures });
  process.stderr.write(`${row(world.name, figures).join('  ')}\n`);
}
console.log(table([HEAD, ...results.map((one) => row(one.world, one))]));
console.log(
  JSON.stringify({ bench: 'policy', namespaces: NAMESPACES, workloads: WORKLOADS, rules: RULES, results }),
);
