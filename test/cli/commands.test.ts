import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { KNOB_NAMES, envOf, flagOf } from '../../daemon/config.ts';
import type { Config } from '../../daemon/config.ts';
import type { CleanupOptions } from '../../daemon/cli/io.ts';
import { span } from '../../daemon/cli/table.ts';
import { NODE_STATUS } from '../admin/backend.ts';
import { assertGolden, culvert, startApi } from './terminal.ts';

const ROOT = join(import.meta.dirname, '../..');
/** Port 1 of loopback: nobody listens there. */
const NOBODY = '127.0.0.1:1';

describe('culvert', () => {
  it('prints help, for itself and each command, with 0', async () => {
    const { code, out } = await culvert(['--help']);
    assert.equal(code, 0);
    assertGolden('help', out);
    for (const command of 'daemon check status connections certs lint why svid config uninstall cleanup limits'.split(
      ' ',
    )) {
      const help = await culvert([command, '--help']);
      assert.deepEqual([command, help.code, help.err], [command, 0, '']);
      assert.match(help.out, new RegExp(`^Usage: culvert ${command}`));
    }
  });

  it('ends with 2 and says what is wrong when it is used wrongly', async () => {
    for (const [args, says] of [
      [[], /Usage: culvert/],
      [['stats'], /unknown command 'stats'[^]*Did you mean status\?/],
      [['status', '--jsno'], /unknown option '--jsno'/],
      [['status', 'extra'], /too many arguments/],
      [['status', '--admin', 'nonsense'], /--admin: "nonsense" is not host:port/],
      [['status', '--admin', '127.0.0.1:70000'], /is not host:port/],
      [['cleanup'], /--node <name>.* not specified/],
      [['uninstall', '--timeout', '5m', '--admin', NOBODY], /--timeout: "5m" is not a number of seconds/],
      [['daemon', '--node-name', 'a', '--hold-timeout', '10'], /--hold-timeout: "10" is not a duration/],
    ] as const) {
      const { code, err, out } = await culvert(args);
      assert.deepEqual([args, code, out], [args, 2, '']);
      assert.match(err, says);
    }
  });

  it('says that no daemon answers, where, and what to do, with 2', async () => {
    for (const command of ['status', 'connections', 'certs', 'config', 'uninstall']) {
      const { code, err } = await culvert([command, '--admin', NOBODY]);
      assert.equal(code, 2);
      assert.match(
        err,
        new RegExp(`^culvert ${command}: no daemon answers on ${NOBODY} \\(.*ECONNREFUSED.*--admin`),
      );
    }
  });

  it('knows when something else answers', async () => {
    const other = createServer((_request, response) => response.end('{"pods": "many"}'));
    const { promise, resolve } = Promise.withResolvers<undefined>();
    other.listen(0, '127.0.0.1', () => resolve(undefined));
    await promise;
    const address = other.address();
    const port = typeof address === 'object' && address !== null ? address.port : 0;
    const { code, err } = await culvert(['status', '--admin', `127.0.0.1:${port}`]);
    other.close();
    assert.equal(code, 2);
    assert.match(err, /in a form that this version does not know.*pods/s);
  });

  it('runs from a checkout by npx', () => {
    const ran = spawnSync('npx', ['--no-install', 'culvert', '--version'], { cwd: ROOT, encoding: 'utf8' });
    assert.deepEqual([ran.status, ran.stdout.trim()], [0, '0.1.0'], ran.stderr);
  });

  it('does not mind a reader that goes away', () => {
    const script = 'daemon/cli/culvert limits --markdown | head -1; daemon/cli/culvert nonsense';
    const ran = spawnSync('/bin/sh', ['-c', script], { cwd: ROOT, encoding: 'utf8' });
    assert.equal(ran.status, 2);
    assert.doesNotMatch(ran.stderr, /EPIPE/);
  });
});

describe('culvert daemon', () => {
  it('has a flag for every knob, with default and variable', async () => {
    const { out } = await culvert(['daemon', '--help']);
    for (const name of KNOB_NAMES) {
      assert.match(out, new RegExp(`^  ${flagOf(name)} <`, 'm'));
      assert.ok(out.includes(`env: ${envOf(name)})`), name);
    }
    for (const group of ['Node:', 'Capture:', 'Enrolment:', 'Proxy:', 'Limits:', 'Identity:'])
      assert.match(out, new RegExp(`^${group}$`, 'm'));
  });

  it('starts with flags over environment over defaults', async () => {
    const started: Config[] = [];
    const env = { CULVERT_HOLD_TIMEOUT: '20s', CULVERT_WORKERS: '3' };
    const { code } = await culvert(
      ['daemon', '--node-name', 'n1', '--workers', '2'],
      { env },
      {
        startDaemon: (config) => Promise.resolve(void started.push(config)),
      },
    );
    assert.equal(code, 0);
    assert.partialDeepStrictEqual(started, [
      { nodeName: 'n1', workers: 2, holdTimeout: 20_000, adminPort: 15_000 },
    ]);
  });

  it('names every wrong knob at once', async () => {
    const { code, err } = await culvert(['daemon', '--workers', 'many'], {
      env: { CULVERT_JOIN_WAIT: 'soon' },
    });
    assert.equal(code, 2);
    for (const wrong of ['--node-name', '--workers: "many"', 'CULVERT_JOIN_WAIT: "soon"'])
      assert.ok(err.includes(wrong), err);
  });
});

describe('culvert check', () => {
  const good = { id: 'KERNEL', ok: true, what: 'kernel', detail: '6.18', fix: '' } as const;
  const warning = {
    id: 'NOFILE',
    ok: 'warn',
    what: 'open-file limit',
    detail: '20,000',
    fix: 'raise it to 65,536',
  } as const;
  const bad = {
    id: 'BPFFS',
    ok: false,
    what: 'BPF file system',
    detail: '/sys/fs/bpf is no bpffs',
    fix: 'mount -t bpf bpf /sys/fs/bpf',
  } as const;

  it('names what is missing and what to do, with 1', async () => {
    const preflight = () => Promise.resolve([good, warning, bad]);
    const { code, out } = await culvert(['check'], {}, { preflight });
    assert.equal(code, 1);
    assertGolden('check', out);
    const json = await culvert(['check', '--json'], {}, { preflight });
    assert.deepEqual([json.code, JSON.parse(json.out)], [1, [good, warning, bad]]);
  });

  it('ends with 0 when nothing fails, warnings or not', async () => {
    const preflight = (config: Config) => Promise.resolve(config.bpffs === '/b' ? [good, warning] : [bad]);
    assert.equal((await culvert(['check', '--bpffs', '/b'], {}, { preflight })).code, 0);
    assert.equal((await culvert(['check'], {}, { preflight })).code, 1);
  });
});

describe('culvert connections, certs, config', () => {
  it('show what is open', async () => {
    await using api = await startApi();
    const { code, out } = await culvert(['connections', '--admin', api.address]);
    assert.equal(code, 0);
    assertGolden('connections', out);
    const json = await culvert(['connections', '--admin', api.address, '--json']);
    assert.partialDeepStrictEqual(JSON.parse(json.out), [{ connId: 'w0-1', bytesSent: 100 }]);
  });

  it('show certificates and their remaining life, with 1 when one has failed', async () => {
    await using api = await startApi();
    const { code, out } = await culvert(['certs', '--admin', api.address]);
    assert.equal(code, 1);
    assertGolden('certs', out);
  });

  it('show the configuration as JSON', async () => {
    await using api = await startApi();
    const { code, out } = await culvert(['config', '--admin', api.address]);
    assert.deepEqual([code, JSON.parse(out)], [0, { knobs: { nodeName: 'node-a' } }]);
  });
});

describe('culvert uninstall', () => {
  const leaving = { ...NODE_STATUS, uninstall: 'leaving' } as const;
  const empty = { ...leaving, pods: [] } as const;

  it('asks once, shows progress once a change, and waits for the end', async () => {
    await using api = await startApi();
    api.backend.statuses = [leaving, leaving, empty, { ...empty, uninstall: 'done' }];
    const { code, out } = await culvert(['uninstall', '--admin', api.address]);
    assert.equal(code, 0);
    assert.equal(api.backend.uninstalls, 1);
    assert.deepEqual(out.trimEnd().split('\n'), [
      'node node-a: leaving, 1 pod to go',
      'node node-a: no pod to go, removing programs and pins',
      'node node-a: nothing of culvert is left',
    ]);
  });

  it('gives up in time, says what is left, with 1', async () => {
    await using api = await startApi();
    api.backend.statuses = [leaving];
    let now = 0;
    const clock = { now: () => now, sleep: (ms: number) => Promise.resolve(void (now += ms)) };
    const { code, err } = await culvert(['uninstall', '--admin', api.address, '--timeout', '3'], clock);
    assert.equal(code, 1);
    assert.match(err, /not done after 3 s; still there: 1 pods\n  shop\/web-7d9c4: enrolled\n/);
  });
});

describe('culvert cleanup', () => {
  it('needs no daemon, says what it removed and what it could not', async () => {
    const asked: CleanupOptions[] = [];
    const clean = (left: readonly string[]) => (options: CleanupOptions) => {
      asked.push(options);
      return Promise.resolve({ removed: ['/sys/fs/bpf/culvert/1/connect4'], left });
    };
    const good = await culvert(['cleanup', '--node', 'n1'], {}, { cleanupNode: clean([]) });
    assert.deepEqual([good.code, good.out], [0, 'removed /sys/fs/bpf/culvert/1/connect4\n']);
    const bad = await culvert(
      ['cleanup', '--node', 'n1', '--bpffs', '/b', '--json'],
      {},
      { cleanupNode: clean(['x: EBUSY']) },
    );
    assert.equal(bad.code, 1);
    assert.partialDeepStrictEqual(JSON.parse(bad.out), { left: ['x: EBUSY'] });
    assert.deepEqual(asked, [
      { nodeName: 'n1', bpffs: '/sys/fs/bpf' },
      { nodeName: 'n1', bpffs: '/b' },
    ]);
  });

  it('says when there was nothing', async () => {
    const cleanupNode = () => Promise.resolve({ removed: [], left: [] });
    const { code, out } = await culvert(['cleanup', '--node', 'n1'], {}, { cleanupNode });
    assert.deepEqual([code, out], [0, 'nothing of node n1 was found under /sys/fs/bpf\n']);
  });
});

describe('spans of time', () => {
  it('have their two largest units', () => {
    for (const [ms, text] of [
      [0, '0s'],
      [999, '0s'],
      [1_000, '1s'],
      [61_000, '1m1s'],
      [3_600_000, '1h'],
      [86_400_000 + 7_200_000 + 60_000, '1d2h'],
      [-5_000, '-5s'],
    ] as const)
      assert.equal(span(ms), text);
  });
});
