import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, it } from 'node:test';
import { COUNTERS } from '../../daemon/capture/counters.ts';
import * as maps from '../../daemon/capture/maps.ts';
import { readObject } from '../../daemon/capture/object.ts';
import { PINNED_MAPS } from '../../daemon/capture/tables.ts';
import { ROLES } from '../../daemon/mesh/wiring.ts';
import { run } from './bpf-world.ts';

const BPF = path.join(import.meta.dirname, '../../native/bpf');
const STRUCTS: Readonly<Record<string, maps.Codec<never>>> = {
  culvert_ip: maps.ipCodec,
  culvert_endpoint: maps.endpointCodec,
  culvert_flow: maps.flowCodec,
  culvert_tuple: maps.tupleCodec,
  culvert_pod: maps.podCodec,
  culvert_pod_count: maps.podCountCodec,
  culvert_pod_cgroup: maps.podCgroupCodec,
  culvert_local_pod: maps.localPodCodec,
  culvert_workers: maps.workersCodec,
  culvert_config: maps.configCodec,
  culvert_exclusion: maps.exclusionCodec,
  culvert_listener: maps.listenerCodec,
  culvert_refusal: maps.refusalCodec,
  culvert_level: maps.levelCodec,
} as unknown as Readonly<Record<string, maps.Codec<never>>>;
const NUMBERS: Readonly<Record<string, number>> = {
  CULVERT_LAYOUT: maps.LAYOUT,
  CULVERT_MAX_WORKERS: maps.MAX_WORKERS,
  CULVERT_MAX_GENERATIONS: maps.MAX_GENERATIONS,
  CULVERT_MAX_LEVELS: maps.MAX_LEVELS,
  CULVERT_ROLE_OUTBOUND: ROLES.outbound,
  CULVERT_ROLE_PLAINTEXT: ROLES.plaintext,
  CULVERT_ROLE_HBONE: ROLES.hbone,
  CULVERT_POD_CAPTURE: maps.POD_FLAGS.capture,
  CULVERT_POD_NO_GLOBAL_V6: maps.POD_FLAGS.noGlobalV6,
  CULVERT_CGROUP_PENDING: maps.CGROUP_STATES.pending,
  CULVERT_CGROUP_ENROLLED: maps.CGROUP_STATES.enrolled,
  CULVERT_CGROUP_ALLOW_NESTED: maps.CGROUP_ALLOW_NESTED,
  CULVERT_LOCAL_LEAVING: maps.LOCAL_LEAVING,
  CULVERT_REFUSED_PENDING: COUNTERS.POD_PENDING,
  CULVERT_REFUSED_PENDING_INBOUND: COUNTERS.POD_PENDING_INBOUND,
  CULVERT_REFUSED_NESTED_NETNS: COUNTERS.NESTED_NETNS,
  CULVERT_REFUSED_ENTRY_LIMIT: COUNTERS.POD_ENTRY_LIMIT,
  CULVERT_REFUSED_NO_WORKER: COUNTERS.NO_WORKER,
  CULVERT_REFUSED_NO_STORAGE: COUNTERS.NO_SOCKET_STORAGE,
  CULVERT_REFUSED_NO_RECORD: COUNTERS.NO_KERNEL_RECORD,
  CULVERT_REFUSED_UNKNOWN_ADDRESS: COUNTERS.UNKNOWN_LOCAL_ADDRESS,
  CULVERT_REFUSED_NO_LISTENER: COUNTERS.NO_LISTENER,
  CULVERT_LOST_CLIENT_ADDRESS: COUNTERS.CLIENT_ADDRESS_LOST,
  CULVERT_LOST_SELF_FLOW: COUNTERS.SELF_FLOW_LOST,
  CULVERT_LOST_HOST_FLOW: COUNTERS.HOST_FLOW_LOST,
  CULVERT_REFUSED_NO_WORKER_INBOUND: COUNTERS.NO_WORKER_INBOUND,
  CULVERT_DID_CAPTURE: COUNTERS.CAPTURED,
  CULVERT_DID_STEER_PLAINTEXT: COUNTERS.STEERED_PLAINTEXT,
  CULVERT_DID_STEER_HBONE: COUNTERS.STEERED_HBONE,
  CULVERT_DID_PASS_PROBE: COUNTERS.PASSED_PROBE,
  CULVERT_DID_PASS_SELF: COUNTERS.PASSED_SELF,
};

/** Every size, offset and number, as a C compiler sees the header. */
function compiledHeader(): Map<string, number> {
  const directory = mkdtempSync(path.join(tmpdir(), 'culvert-header-'));
  try {
    const prints = [
      ...Object.entries(STRUCTS).flatMap(([name, { fields }]) => [
        `printf("${name} %zu\\n", sizeof(struct ${name}));`,
        ...Object.keys(fields).map((f) => `printf("${name}.${f} %zu\\n", offsetof(struct ${name}, ${f}));`),
      ]),
      ...Object.keys(NUMBERS).map((name) => `printf("${name} %d\\n", ${name});`),
    ];
    const source = path.join(directory, 'sizes.c');
    const includes =
      '#include <stdio.h>\n#include <stddef.h>\n#include <linux/types.h>\n#include "culvert.h"\n';
    writeFileSync(source, `${includes}int main(void) { ${prints.join('\n')} return 0; }`);
    run('cc', '-Wall', '-Werror', '-I', BPF, '-o', path.join(directory, 'sizes'), source);
    const lines = run(path.join(directory, 'sizes')).trim().split('\n');
    return new Map(lines.map((line) => [line.split(' ')[0] ?? '', Number(line.split(' ')[1])]));
  } finally {
    rmSync(directory, { recursive: true });
  }
}

describe('the layouts that C and TypeScript share', () => {
  it('have the same sizes, offsets and numbers', () => {
    const compiled = compiledHeader();
    const ours = new Map<string, number>(Object.entries(NUMBERS));
    for (const [name, codec] of Object.entries(STRUCTS)) {
      ours.set(name, codec.bytes);
      for (const [field, offset] of Object.entries(codec.fields)) ours.set(`${name}.${field}`, offset);
    }
    assert.deepEqual(Object.fromEntries([...compiled].sort()), Object.fromEntries([...ours].sort()));
  });

  it('leave out no struct, no number and no map of the sources', () => {
    const header = readFileSync(path.join(BPF, 'culvert.h'), 'utf8');
    const structs = [...header.matchAll(/^struct (\w+) \{/gm)].map((match) => match[1]);
    assert.deepEqual(structs.sort(), Object.keys(STRUCTS).sort());
    // Those that only the kernel programs use.
    const kernelOnly = ['HBONE_PORT', 'DEFAULT_PENDING', 'SIDE_CLIENT', 'SIDE_ACCEPTED', 'TOTALS', 'H'];
    const numbers = [...header.matchAll(/^#define CULVERT_(\w+)/gm)].flatMap((match) => match[1] ?? []);
    const known = Object.keys(NUMBERS).map((name) => name.slice('CULVERT_'.length));
    assert.deepEqual(numbers.filter((name) => !kernelOnly.includes(name)).sort(), known.sort());
    const source = readFileSync(path.join(BPF, 'maps.h'), 'utf8');
    const names = [...source.matchAll(/^\} (\w+) SEC\("\.maps"\);/gm)].map((match) => match[1]);
    assert.deepEqual(names.sort(), [...PINNED_MAPS, 'level_probe'].sort());
  });
});

describe('the prebuilt objects', () => {
  it('are what their sources give, and what SHA256SUMS says', () => {
    const check = spawnSync('make', ['-s', '-C', BPF, 'check'], { encoding: 'utf8' });
    assert.equal(check.status, 0, check.stdout + check.stderr);
    for (const arch of ['x64', 'arm64']) assert.ok(readObject(undefined, arch).length > 0);
    assert.throws(() => readObject(undefined, 'mips'), { code: 'BPF_OBJECT_CORRUPT' });
    assert.throws(() => readObject('/nowhere'), { code: 'BPF_OBJECT_CORRUPT' });
  });
});
