/** Short by default; CULVERT_FUZZ sets the number of inputs of each property. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { verifyCsr } from '../../daemon/identity/csr.ts';
import { verifyChain } from '../../daemon/identity/chain.ts';
import { isDer } from '../../daemon/identity/der.ts';
import { verifySvid } from '../../daemon/identity/svid.ts';
import { NOW, TRUST_DOMAIN, WEB, forge, forgeSan, san, tlv, uri } from '../identity/forge.ts';

const numRuns = Number(process.env['CULVERT_FUZZ'] ?? 3_000);
const options = { trustDomain: TRUST_DOMAIN, nowMs: NOW };

const honest = forge();
const sanAt = honest.indexOf(WEB);

interface Mutation {
  readonly at: number;
  readonly remove: number;
  readonly insert: Uint8Array;
}

const mutation = (min: number, max: number): fc.Arbitrary<Mutation> =>
  fc.record({
    at: fc.integer({ min, max }),
    remove: fc.integer({ min: 0, max: 3 }),
    insert: fc.uint8Array({ maxLength: 3 }),
  });

function mutate(der: Buffer, mutations: readonly Mutation[]): Buffer {
  let out = der;
  for (const { at, remove, insert } of mutations)
    out = Buffer.concat([out.subarray(0, at), insert, out.subarray(at + remove)]);
  return out;
}

describe('fuzz: leaves', () => {
  it('never throws, and whatever it accepts has the very name that is in the bytes', () => {
    const everywhere = fc.array(mutation(0, honest.length - 1), { minLength: 1, maxLength: 4 });
    fc.assert(
      fc.property(everywhere, (mutations) => {
        const der = mutate(honest, mutations);
        const verdict = verifySvid(der, options);
        if (!verdict.ok) return;
        assert.ok(isDer(der));
        assert.ok(der.includes(san(uri(verdict.id))), 'the name is not the only one of its SAN');
      }),
      { numRuns },
    );
  });

  it('never gives the old name when a byte of it was changed', () => {
    const within = fc.record({
      at: fc.integer({ min: sanAt, max: sanAt + WEB.length - 1 }),
      xor: fc.integer({ min: 1, max: 255 }),
    });
    fc.assert(
      fc.property(within, ({ at, xor }) => {
        const der = Buffer.from(honest);
        der[at] = (der[at] ?? 0) ^ xor;
        const verdict = verifySvid(der, options);
        assert.ok(!verdict.ok || verdict.id !== WEB);
      }),
      { numRuns },
    );
  });

  it('never accepts a list of names with more or less in it than one URI', () => {
    const name = fc.oneof(
      fc.constant(uri(WEB)),
      fc
        .tuple(fc.integer({ min: 0x80, max: 0xbe }), fc.uint8Array({ maxLength: 60 }))
        .map(([tag, bytes]) => tlv(tag === 0x9f ? 0x9e : tag, bytes)),
    );
    fc.assert(
      fc.property(fc.array(name, { maxLength: 3 }), (names) => {
        const verdict = verifySvid(forgeSan(san(...names)), options);
        const right = names.length === 1 && names[0]?.equals(uri(WEB));
        assert.equal(verdict.ok, right);
      }),
      { numRuns },
    );
  });

  it('never throws on bytes that are no certificate, here, in a chain or as a request', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        assert.ok(!verifySvid(bytes, options).ok);
        assert.ok(!verifyCsr(bytes).ok);
        assert.ok(!verifyChain([bytes], '', options).ok);
      }),
      { numRuns },
    );
  });
});
