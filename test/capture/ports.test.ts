import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { candidatePorts } from '../../daemon/capture/ports.ts';
import type { PortRules } from '../../daemon/capture/ports.ts';

const ports = (rules: Partial<PortRules>): number[] => [
  ...candidatePorts({ min: 61_001, max: 61_006, ephemeral: undefined, taken: new Set(), ...rules }),
];

describe('the ports of our listeners in a pod', () => {
  it('are all of the range, in order, both ends included', () => {
    assert.deepEqual(ports({}), [61_001, 61_002, 61_003, 61_004, 61_005, 61_006]);
    assert.deepEqual(ports({ min: 65_535, max: 65_535 }), [65_535]);
    assert.deepEqual(ports({ min: 9, max: 8 }), []);
  });

  it('are never one that the app declares', () => {
    assert.deepEqual(ports({ taken: new Set([61_001, 61_004]) }), [61_002, 61_003, 61_005, 61_006]);
  });

  it('are those of the ephemeral range last, each once', () => {
    const ephemeral = { low: 32_768, high: 61_003 };
    assert.deepEqual(ports({ ephemeral }), [61_004, 61_005, 61_006, 61_001, 61_002, 61_003]);
    assert.deepEqual(
      ports({ ephemeral, taken: new Set([61_002, 61_006]) }),
      [61_004, 61_005, 61_001, 61_003],
    );
    assert.equal(new Set(ports({ ephemeral: { low: 1, high: 65_535 } })).size, 6);
  });
});
