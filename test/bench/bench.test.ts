import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parseOptions } from './options.ts';
import { renderGroups, table } from './report.ts';
import { cpuSecondsOf, median, residentKibOf, slopeKb, treeCpuSeconds } from './stats.ts';
import { judge } from './targets.ts';

void describe("the benchmark's pure parts", () => {
  void it('takes the median, of an even number between the two in the middle', () => {
    assert.equal(median([9, 1, 5]), 5);
    assert.equal(median([4, 1, 3, 2]), 2.5);
    assert.ok(Number.isNaN(median([])));
  });

  void it('reads CPU and memory from /proc, whatever a process is called', () => {
    // proc(5): fields 14 to 17 are utime, stime, cutime, cstime.
    const stat = '7 (odd) name (x) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 30 20 20 0 11 0 123 1 2 3';
    assert.equal(cpuSecondsOf(stat), 2.5);
    assert.equal(residentKibOf('Name:\tnode\nVmRSS:\t  2048 kB\nRssAnon:\t 1 kB\n'), 2_048);
    assert.ok(treeCpuSeconds([process.pid]) > 0);
    assert.throws(() => treeCpuSeconds([0x7fff_ffff]));
  });

  void it("gives a connection's KB by the slope, free of what was there before", () => {
    const kb = slopeKb({ count: 1_000, kib: 50_000 }, { count: 5_000, kib: 90_000 });
    assert.equal(kb.toFixed(2), '10.24');
  });

  void it('aligns columns', () => {
    assert.equal(
      table([
        ['', 'GB/s', 'x'],
        ['ours', '1.32', '10'],
      ]),
      '      GB/s   x\nours  1.32  10',
    );
  });

  void it('prints a candidate that is not there as dashes with the reason, never leaves it out', () => {
    const text = renderGroups({
      medians: { ours: { conns: 1_234, cpuConn: 200 } },
      candidates: ['ours', 'ztunnel'],
      holes: [{ name: 'ztunnel', reason: 'PEER_ZTUNNEL is not set' }],
      parts: ['connections'],
    });
    assert.match(text, /^ours +1,234 +200 +- +-$/m);
    assert.match(text, /^ztunnel( +-){4}$/m);
    assert.match(text, /ztunnel: PEER_ZTUNNEL is not set/);
  });

  void it('says met, missed, and unknown where a rival was not measured', () => {
    const verdicts = judge({
      ours: { cpuGb1: 1.2, p50x1: 120, cpuConn: 251, cpuReq64: 20 },
      haproxy: { cpuGb1: 1, p50x1: 100 },
    });
    const outcomes = verdicts.map(({ target, outcome }) => `${target}: ${outcome}`);
    assert.ok(outcomes.includes("CPU s/GB, 1 stream ≤ 1.2 × HAProxy's: met"));
    assert.ok(outcomes.includes("p50 µs, 1 connection ≤ 1.1 × HAProxy's: missed"));
    assert.ok(outcomes.includes('CPU µs a new connection ≤ 250: missed'));
    assert.ok(outcomes.includes("CPU µs a request, 64 connections ≤ ztunnel's: unknown"));
  });

  void it('takes the words of the command line, and refuses others in a sentence', () => {
    const options = parseOptions(['--quick', '--only', 'bulk,hot', '--rounds', '2'], {});
    assert.ok(options !== 'help');
    assert.deepEqual([options.rounds, options.seconds, options.parts], [2, 1, ['bulk', 'hot']]);
    const long = parseOptions([], { CULVERT_LONG: '1' });
    assert.ok(long !== 'help' && long.parts.includes('matrix') && long.held === 15_000);
    assert.throws(() => parseOptions(['--only', 'luck'], {}), /--only luck: one of bulk/);
    assert.throws(() => parseOptions(['--rounds', '0'], {}), /--rounds 0/);
  });
});
