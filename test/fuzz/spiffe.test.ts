/** IDs against a second opinion that shares no code with ids.ts: one regular expression of the whole form. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { parseSpiffeId, splitSpiffeId } from '../../daemon/mesh/ids.ts';
import { verifySvid } from '../../daemon/identity/svid.ts';
import { NOW, TRUST_DOMAIN, forgeSan, san, uri } from '../identity/forge.ts';

const numRuns = Number(process.env['CULVERT_FUZZ'] ?? 3_000);
const SEGMENT = '(?!\\.{1,2}(?:/|$))[A-Za-z0-9._-]+';
const FORM = new RegExp(`^spiffe://[a-z0-9._-]{1,255}/ns/${SEGMENT}/sa/${SEGMENT}$`);

const piece = fc.oneof(
  fc.constantFrom(
    'spiffe',
    ':',
    '//',
    '/',
    'cluster.local',
    'ns',
    'sa',
    'shop',
    'web',
    '..',
    '.',
    '%2e',
    '\0',
  ),
  fc.string({ maxLength: 4, unit: 'binary' }),
);
const nearlyId = fc
  .tuple(
    fc.constantFrom('spiffe://', 'spiffe:/', 'SPIFFE://', ''),
    fc.oneof(
      fc.constant('cluster.local/ns/shop/sa/web'),
      fc.array(piece, { maxLength: 9 }).map((p) => p.join('')),
    ),
    fc.oneof(fc.constant(''), piece),
  )
  .map((parts) => parts.join(''));

describe('fuzz: SPIFFE IDs', () => {
  it('are accepted exactly when they have the whole form', () => {
    fc.assert(
      fc.property(nearlyId, (text) => {
        assert.equal(parseSpiffeId(text) !== undefined, text.length <= 2048 && FORM.test(text));
      }),
      { numRuns },
    );
  });
  it('split into parts that make them again', () => {
    fc.assert(
      fc.property(nearlyId, (text) => {
        const parts = splitSpiffeId(text);
        if (parts === undefined) return;
        assert.equal(`spiffe://${parts.trustDomain}/ns/${parts.namespace}/sa/${parts.serviceAccount}`, text);
      }),
      { numRuns },
    );
  });
  it('in a certificate are accepted exactly when they are of our trust domain too', () => {
    fc.assert(
      fc.property(nearlyId, (text) => {
        const verdict = verifySvid(forgeSan(san(uri(text))), { trustDomain: TRUST_DOMAIN, nowMs: NOW });
        // A certificate carries bytes: what is above Latin-1 was cut when it was written.
        const written = Buffer.from(text, 'latin1').toString('latin1');
        const right = FORM.test(written) && written.startsWith('spiffe://cluster.local/');
        assert.equal(verdict.ok, right);
      }),
      { numRuns },
    );
  });
});
