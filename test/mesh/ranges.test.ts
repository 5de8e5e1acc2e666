import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import ipaddr from 'ipaddr.js';
import { parseIp } from '../../daemon/mesh/ids.ts';
import { RangeSet, canonicalCidr, isInside } from '../../daemon/mesh/ranges.ts';
import { ip } from './world.ts';

const anyAddress = fc.oneof(fc.ipV4(), fc.ipV6()).filter((text) => parseIp(text) !== undefined);

describe('ranges', () => {
  it('clears host bits and refuses what is no range', () => {
    assert.equal(canonicalCidr('10.1.2.3/8'), '10.0.0.0/8');
    assert.equal(canonicalCidr('10.1.2.3/32'), '10.1.2.3/32');
    assert.equal(canonicalCidr('10.1.2.3/0'), '0.0.0.0/0');
    assert.equal(canonicalCidr('FD00:0::1/64'), 'fd00::/64');
    for (const text of [
      '',
      '/',
      '10.0.0.0',
      '10.0.0.0/33',
      '10.0.0.0/-1',
      '10.0.0/8',
      'fd00::/129',
      '10.0.0.0/8/8',
    ])
      assert.equal(canonicalCidr(text), undefined, text);
  });

  it('agrees with ipaddr.js on what is inside, and keeps the families apart', () => {
    fc.assert(
      fc.property(anyAddress, anyAddress, fc.integer({ min: 0, max: 128 }), (base, probe, bits) => {
        const range = ipaddr.parse(ip(base));
        const address = ipaddr.parse(ip(probe));
        const length = Math.min(bits, range.kind() === 'ipv4' ? 32 : 128);
        const expected = range.kind() === address.kind() && address.match(range, length);
        const set = new RangeSet();
        set.add(`${base}/${length}`);
        assert.equal(set.has(ip(probe)), expected);
        assert.equal(isInside(ip(probe), [`${base}/${length}`]), expected);
        assert.equal(set.has(ip(base)), true);
      }),
    );
  });
});
