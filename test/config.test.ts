import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { KNOBS, KNOB_NAMES, envOf, flagOf, parseConfig, resolveCounts } from '../daemon/config.ts';
import type { Config, KnobName } from '../daemon/config.ts';
import { MeshError } from '../daemon/errors.ts';

type Flags = Partial<Record<KnobName, string>>;

function parse(flags: Flags, env: Readonly<Record<string, string>> = {}): Config {
  return parseConfig({ nodeName: 'node-a', ...flags }, env);
}

/** The lines of the complaint. */
function complaints(flags: Flags, env: Readonly<Record<string, string>> = {}): readonly string[] {
  try {
    parse(flags, env);
  } catch (error) {
    assert.ok(error instanceof MeshError);
    assert.equal(error.code, 'CONFIG_INVALID');
    return error.message.split('\n');
  }
  return [];
}

describe('the table of knobs', () => {
  it('has defaults that are valid together, all but the name of the node', () => {
    assert.equal(Object.keys(parse({})).length, KNOB_NAMES.length);
    assert.throws(() => parseConfig({}, {}), /--node-name/);
  });

  it('has a flag, a variable, a unit in words and a meaning for each, none twice', () => {
    assert.equal(new Set(KNOB_NAMES.map(flagOf)).size, KNOB_NAMES.length);
    assert.equal(new Set(KNOB_NAMES.map(envOf)).size, KNOB_NAMES.length);
    for (const name of KNOB_NAMES) {
      assert.match(flagOf(name), /^--[a-z]+(-[a-z]+)*$/);
      assert.match(envOf(name), /^CULVERT_[A-Z]+(_[A-Z]+)*$/);
      assert.match(KNOBS[name].doc, /^[A-Z/]/, name);
    }
    assert.deepEqual(
      [flagOf('holdTimeout'), envOf('holdTimeout')],
      ['--hold-timeout', 'CULVERT_HOLD_TIMEOUT'],
    );
  });
});

describe('where a value comes from', () => {
  it('is the flag, then the variable, then the default', () => {
    const env = { CULVERT_WORKERS: '3', CULVERT_CONNECT_TIMEOUT: '7s' };
    const config = parse({ workers: '2' }, env);
    assert.deepEqual([config.workers, config.connectTimeout, config.handshakeTimeout], [2, 7_000, 10_000]);
  });

  it('is named in the complaint', () => {
    const env = { CULVERT_WORKERS: 'three', CULVERT_CONNECT_TIMEOUT: 'soon' };
    assert.deepEqual(
      complaints({ workers: 'two' }, env).map((line) => line.split(':')[0]),
      ['--workers', 'CULVERT_CONNECT_TIMEOUT'],
    );
  });
});

describe('complaints', () => {
  it('come all at once, one line for each knob, with what was given and what is expected', () => {
    const lines = complaints({
      workers: '17',
      logLevel: 'loud',
      adminPort: '0',
      meshCidrs: '10.0.0.0/8,10.300.0.0/16',
      trustDomain: 'Cluster.Local',
      holdTimeout: '10',
    });
    assert.deepEqual(lines.toSorted(), [
      '--admin-port: "0" is not a port from 1 to 65535',
      '--hold-timeout: "10" is not a duration such as 500ms, 10s or 24h, from 100 ms to 600000 ms',
      '--log-level: "loud" is not trace | debug | info | warn | error',
      '--mesh-cidrs: "10.0.0.0/8,10.300.0.0/16" is not ranges such as 10.244.0.0/16,fd00::/48',
      '--trust-domain: "Cluster.Local" is not a trust domain of a-z 0-9 . _ -',
      '--workers: "17" is not an integer from 0 to 16',
    ]);
  });

  it('are made of contradictions too', () => {
    for (const [flags, says] of [
      [
        { holdTimeout: '9s', joinWait: '5s' },
        /^--hold-timeout: 9000 ms is less than twice --join-wait \(5000 ms\)/,
      ],
      [
        { listenerPortMin: '62000', listenerPortMax: '62000' },
        /^--listener-port-min: must be below --listener-port-max/,
      ],
      [{ pingInterval: '30s', pingTimeout: '20s' }, /^--ping-timeout: must not be below --ping-interval/],
    ] as const) {
      const lines = complaints(flags);
      assert.equal(lines.length, 1);
      assert.match(lines[0] ?? '', says);
    }
    assert.deepEqual(complaints({ holdTimeout: '10s', joinWait: '5s' }), [], 'exactly twice is enough');
  });
});

describe('values', () => {
  it('of time have a unit', () => {
    for (const [text, ms] of [
      ['500ms', 500],
      ['1.5s', 1_500],
      ['10s', 10_000],
      ['2m', 120_000],
    ] as const)
      assert.equal(parse({ connectTimeout: text }).connectTimeout, ms);
    assert.equal(parse({ certLifetime: '1h' }).certLifetime, 3_600_000);
    assert.equal(parse({ certLifetime: '7d' }).certLifetime, 604_800_000);
    for (const wrong of [
      '',
      '10',
      's',
      '-5s',
      '1e3s',
      ' 5s',
      '5s ',
      '5 s',
      '5S',
      '5sec',
      '1h30m',
      '99ms',
      '6m',
      'Infinity',
    ])
      assert.equal(complaints({ connectTimeout: wrong }).length, 1, wrong);
  });

  it('at the ends of their range are taken, beyond refused', () => {
    for (const [name, good, wrong] of [
      ['workers', ['0', '16'], ['17', '-1', '1.5', '0x2', '1e1']],
      ['streamWindow', ['65535', '67108864'], ['65534', '67108865']],
      ['metricSeries', ['100', '1000000'], ['99', '1000001']],
      ['metricsPort', ['1', '65535'], ['0', '65536', '80.5']],
    ] as const) {
      for (const value of good) assert.deepEqual(complaints({ [name]: value }), [], `${name} ${value}`);
      for (const value of wrong) assert.equal(complaints({ [name]: value }).length, 1, `${name} ${value}`);
    }
  });

  it('that are lists may be empty, of both families', () => {
    assert.deepEqual(parse({ meshCidrs: '' }).meshCidrs, []);
    assert.deepEqual(parse({ meshCidrs: '10.244.0.0/16,fd00::/48' }).meshCidrs, [
      '10.244.0.0/16',
      'fd00::/48',
    ]);
    assert.equal(complaints({ meshCidrs: '10.244.0.0' }).length, 1);
  });
});

describe('counts that come from the machine', () => {
  it('take the open-file limit, and leave other pods a tenth of it', () => {
    const config = resolveCounts(parse({}), 2, 20_000);
    assert.deepEqual(
      [config.maxConnections, config.maxConnectionsPerPod, config.workers],
      [18_976, 17_079, 2],
    );
  });

  it('leave what was given, but no pod more than nine tenths of the node', () => {
    const given = parse({ maxConnections: '1000', maxConnectionsPerPod: '950', workers: '3' });
    const config = resolveCounts(given, 8, 20_000);
    assert.deepEqual([config.maxConnections, config.maxConnectionsPerPod, config.workers], [1_000, 900, 3]);
  });
});
