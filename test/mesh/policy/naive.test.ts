/**
 * The evaluator against a second one (naive.ts) over random policies and requests. CULVERT_POLICY_PAIRS says how many
 * pairs (1,000,000), CULVERT_POLICY_SEED where to begin; a counterexample is one policy and one request or nearly so.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { parseIp, parseSpiffeId } from '../../../daemon/mesh/ids.ts';
import { peerOf } from '../../../daemon/mesh/policy/compile.ts';
import { judge } from '../../../daemon/mesh/policy/judge.ts';
import type { HttpRequest, PolicyRequest, PolicyTarget } from '../../../daemon/mesh/policy/model.ts';
import { parseAuthorizationPolicy } from '../../../daemon/mesh/policy/parse.ts';
import { PATH_NORMALIZATIONS, normalizeTarget, pathOf } from '../../../daemon/mesh/policy/path.ts';
import { parsePeerAuthentication } from '../../../daemon/mesh/policy/peer.ts';
import { PolicyStore } from '../../../daemon/mesh/policy/store.ts';
import { asked, mesh, peers, policies } from './arbitrary.ts';
import type { Asked } from './arbitrary.ts';
import { blockHolds, isBlock } from './naive-address.ts';
import { matchesPath, normalize } from './naive-text.ts';
import { naive } from './naive.ts';
import type { NaiveHttp, NaiveMesh, NaiveRequest, Raw, Verdict } from './naive.ts';
import { anyBlock, isTemplate, templateTest } from '../../../daemon/mesh/policy/match.ts';

const PAIRS = Number(process.env['CULVERT_POLICY_PAIRS'] ?? 1_000_000);
const SEED = process.env['CULVERT_POLICY_SEED'];
const seeded = SEED === undefined ? {} : { seed: Number(SEED) };

/** Both sides of one request, made once. */
interface Pair {
  readonly request: NaiveRequest;
  readonly policyRequest: PolicyRequest;
  readonly target: PolicyTarget;
}

function pairsOf({ who, addresses, ports, workloads, https }: Asked, normalization: string): Pair[] {
  return workloads.flatMap((target) =>
    https.flatMap((http) => {
      const read = http && readHttp(http, normalization);
      return who.flatMap((srcPrincipal) =>
        addresses.flatMap((address, i) =>
          ports.map((dstPort) => {
            // Every second one is dialled at that address; the sum of them covers both sides.
            const [srcIp, dstIp] = i % 2 === 0 ? [address, '10.0.0.2'] : ['10.0.0.1', address];
            const sni = srcPrincipal === null ? undefined : dstPort === 80 ? 's' : 'sn';
            const request = {
              srcPrincipal,
              srcIp,
              dstIp,
              dstPort,
              dstNamespace: target.namespace,
              dstLabels: target.labels,
              sni,
              http,
            };
            return { request, policyRequest: toPolicyRequest(request, read), target };
          }),
        ),
      );
    }),
  );
}

function readHttp({ method, path, host, headers }: NaiveHttp, normalization: string): HttpRequest {
  const how = PATH_NORMALIZATIONS.find((one) => one === normalization) ?? assert.fail(normalization);
  const target = normalizeTarget(path, how) ?? assert.fail(path);
  return { method, path: pathOf(target), host, headers: new Map(Object.entries(headers)) };
}

function toPolicyRequest(
  { srcPrincipal, srcIp, dstIp, dstPort, sni }: NaiveRequest,
  http: HttpRequest | undefined,
): PolicyRequest {
  const id = parseSpiffeId(srcPrincipal ?? '');
  return {
    peer: id && peerOf(id),
    sourceIp: parseIp(srcIp),
    destinationIp: parseIp(dstIp),
    destinationPort: dstPort,
    sni,
    http,
  };
}

function setPolicy(store: PolicyStore, raw: Raw): void {
  const { policy } = parseAuthorizationPolicy(raw) ?? assert.fail('no name');
  store.setPolicy(policy.namespace, policy.name, policy);
}

function setPeer(store: PolicyStore, raw: Raw): void {
  const { peer } = parsePeerAuthentication(raw) ?? assert.fail('no name');
  store.setPeerAuthentication(peer.namespace, peer.name, peer);
}

function judged(store: PolicyStore, { policyRequest, target }: Pair): Verdict {
  const { verdict, by } = judge(store, target, policyRequest, 'permissive');
  if (by === undefined) return { verdict, by };
  return { verdict, by: `${by.namespace}/${by.name}${by.rule === undefined ? '' : ` ${by.rule}`}` };
}

interface Tally {
  pairs: number;
  /** A rule decided. */
  matched: number;
}

function compare(
  store: PolicyStore,
  raw: readonly Raw[],
  rawPeers: readonly Raw[],
  all: readonly Pair[],
  settings: NaiveMesh,
  tally: Tally,
): void {
  for (const pair of all) {
    const [ours, second] = [judged(store, pair), naive(raw, rawPeers, settings, pair.request)];
    tally.pairs++;
    if (ours.by !== undefined) tally.matched++;
    if (ours.verdict !== second.verdict || ours.by !== second.by)
      assert.fail(`ours ${say(ours)}, the second ${say(second)}: ${JSON.stringify(pair.request)}`);
  }
}

const say = ({ verdict, by }: Verdict): string => `${verdict} by ${by ?? 'nothing'}`;

describe('the evaluator and a second one', () => {
  it(`agree on ${PAIRS} pairs of policies and request, also after a change`, () => {
    const tally: Tally = { pairs: 0, matched: 0 };
    const property = fc.property(
      policies,
      peers,
      mesh,
      asked,
      fc.nat(3),
      (raw, rawPeers, settings, given, at) => {
        const store = new PolicyStore({ ...settings, trustDomainAliases: settings.aliases });
        for (const one of raw) setPolicy(store, one);
        for (const one of rawPeers) setPeer(store, one);
        const all = pairsOf(given, settings.normalization);
        compare(store, raw, rawPeers, all, settings, tally);
        const gone = raw[at % raw.length];
        const goneMeta = gone && parseAuthorizationPolicy(gone)?.policy;
        if (goneMeta) store.setPolicy(goneMeta.namespace, goneMeta.name, undefined);
        const peer = rawPeers[at];
        if (peer !== undefined) {
          const { namespace, name } = parsePeerAuthentication(peer)?.peer ?? assert.fail();
          store.setPeerAuthentication(namespace, name, undefined);
        }
        const [left, leftPeers] = [raw.filter((one) => one !== gone), rawPeers.filter((one) => one !== peer)];
        compare(
          store,
          left,
          leftPeers,
          all.filter((_, i) => i % 4 === at),
          settings,
          tally,
        );
      },
    );
    for (let round = 0; tally.pairs < PAIRS; round++) {
      const seed = SEED === undefined ? {} : { seed: Number(SEED) + round };
      fc.assert(property, { numRuns: 1_000, ...seed });
    }
    console.log(
      `figure policy-pairs=${tally.pairs} decided-by-a-rule=${Math.round((100 * tally.matched) / tally.pairs)}%`,
    );
    assert.ok(tally.matched > tally.pairs / 4, 'the random policies match too little to say anything');
  });

  const runs = Math.ceil(PAIRS / 20);
  const piece = fc.constantFrom(
    '/',
    '//',
    '.',
    '..',
    'a',
    'b',
    '%2e',
    '%2E',
    '%2f',
    '%5C',
    '\\',
    '%61',
    '%25',
    '%',
    '?',
    '#',
    ';',
    '%c0%ae',
    '~',
    '%7e',
  );
  const target = fc.array(piece, { maxLength: 9 }).map((pieces) => `/${pieces.join('')}`);

  it('normalise paths alike', () => {
    fc.assert(
      fc.property(target, fc.constantFrom(...PATH_NORMALIZATIONS), (sent, how) => {
        assert.equal(normalizeTarget(sent, how), normalize(sent, how));
      }),
      { numRuns: runs, ...seeded },
    );
  });

  it('read templates alike', () => {
    const segment = fc.constantFrom('{*}', '{**}', 'a', 'b', 'ab', '');
    const template = fc.array(segment, { minLength: 1, maxLength: 5 }).map((all) => `/${all.join('/')}`);
    const path = fc
      .array(fc.constantFrom('a', 'b', 'ab', ''), { minLength: 1, maxLength: 6 })
      .map((all) => `/${all.join('/')}`);
    fc.assert(
      fc.property(template, path, (pattern, sent) => {
        const test = isTemplate(pattern) ? templateTest(pattern) : undefined;
        if (test !== undefined) assert.equal(test(sent), matchesPath(pattern, sent));
      }),
      { numRuns: runs, ...seeded },
    );
  });

  it('read addresses and ranges alike', () => {
    const address = fc.oneof(
      fc.ipV4(),
      fc.ipV6(),
      fc.constantFrom(
        '10.0.0.1',
        '10.0.0.129',
        '::1',
        '::',
        'fd00::1',
        '::ffff:10.0.0.1',
        '1.2.3',
        '01.2.3.4',
        '1:2',
      ),
    );
    const length = fc
      .oneof(fc.nat(129), fc.constantFrom('', '08', 'x', '-1', '24/24'))
      .map((bits) => `/${bits}`);
    const block = fc.tuple(address, fc.option(length, { nil: '' })).map((parts) => parts.join(''));
    fc.assert(
      fc.property(block, address, (range, ip) => {
        const test = anyBlock([range]);
        assert.equal(test !== undefined, isBlock(range), range);
        const parsed = parseIp(ip);
        if (test !== undefined && parsed !== undefined) assert.equal(test(parsed), blockHolds(range, ip));
      }),
      { numRuns: runs, ...seeded },
    );
  });
});
