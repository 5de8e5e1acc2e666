import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { translate } from '../../daemon/cluster/objects.ts';
import type { Delta } from '../../daemon/mesh/model.ts';
import { until } from '../support/wait.ts';
import { Folder } from './folder.ts';

/** What users bring. */
const EXAMPLE = new URL('../kube/policy-example.yaml', import.meta.url);

interface Given {
  readonly version?: string;
  readonly metadata?: object;
  readonly spec?: unknown;
}

const policy = (
  { version = 'v1', metadata = {}, spec = {} }: Given,
  kind = 'AuthorizationPolicy',
): object => ({
  apiVersion: `security.istio.io/${version}`,
  kind,
  metadata: { name: 'p', namespace: 'shop', ...metadata },
  spec,
});

/** The delta's value, and the notes as `path: reason`. */
function read(object: object): { value: unknown; key: string; notes: string[] } {
  const translation = translate(object);
  assert.ok(translation.kind === 'object' && translation.delta !== undefined, JSON.stringify(translation));
  const { delta, notes } = translation;
  return {
    value: delta.value,
    key: `${delta.kind} ${delta.key}`,
    notes: notes.map(({ path, reason }) => `${path.join('.')}: ${reason}`),
  };
}

const yaml = (kind: string, name: string, rest: string, namespace = 'shop'): string =>
  `apiVersion: security.istio.io/v1\nkind: ${kind}\nmetadata:\n  name: ${name}\n  namespace: ${namespace}\n${rest}`;
const deny = (namespace: string, name = 'p'): string =>
  yaml(
    'AuthorizationPolicy',
    name,
    `spec:\n  action: DENY\n  rules:\n    - from:\n        - source:\n            namespaces: [${namespace}]\n`,
  );
/** The last word on an object, as JSON; '' when it is gone. */
function last(folder: Folder, kind: Delta['kind'], key: string): string {
  const value = folder.last(kind, key);
  return value === undefined ? '' : JSON.stringify(value);
}

describe('a policy object', () => {
  it('is read in both versions, in the namespace default when it names none', () => {
    for (const version of ['v1', 'v1beta1']) {
      const { key, notes } = read(policy({ version, metadata: { namespace: undefined } }));
      assert.deepEqual([key, notes], ['policy default/p', []]);
    }
    const { key } = read(policy({ version: 'v1beta1' }, 'PeerAuthentication'));
    assert.equal(key, 'peer-authentication shop/p');
  });

  it('of a version that is not known is refused, and never mistaken for nothing', () => {
    const translation = translate(policy({ version: 'v2' }));
    assert.ok(translation.kind === 'invalid');
    assert.match(translation.problems[0]?.reason ?? '', /security\.istio\.io\/v1 or .*v1beta1/);
    const linkerd = { ...policy({}), apiVersion: 'policy.linkerd.io/v1alpha1' };
    assert.equal(translate(linkerd).kind, 'foreign');
  });

  it('that is broken still counts: an ALLOW as one that never matches, with the field that is wrong', () => {
    const spec = { selector: { matchLabels: { app: 'a' } }, rulez: [{}] };
    const { value, notes } = read(policy({ spec }));
    assert.deepEqual(
      [Reflect.get(Object(value), 'action'), Reflect.get(Object(value), 'rules')],
      ['ALLOW', []],
    );
    assert.match(notes.join('\n'), /rulez/);
    assert.match(notes.join('\n'), /counts as an ALLOW that never matches/);
  });

  it('that is broken and a DENY is told loudly', () => {
    const { notes } = read(policy({ spec: { action: 'DENY', rules: 'all' } }));
    assert.match(notes.join('\n'), /this DENY is NOT enforced/);
  });

  it('loses only the rule that is wrong', () => {
    const rules = [
      { from: [{ source: { ipBlocks: ['10.0.0.0/33'] } }] },
      { to: [{ operation: { ports: ['80'] } }] },
    ];
    const { value, notes } = read(policy({ spec: { rules } }));
    const kept: unknown = Reflect.get(Object(value), 'rules');
    assert.ok(Array.isArray(kept) && kept.length === 1);
    assert.match(notes[0] ?? '', /^spec\.rules\.0\.from\.0\.source\.ipBlocks: /);
  });

  it('keeps its effect when only its metadata can not be read', () => {
    const metadata = { annotations: { 'istio.io/dry-run': true } };
    const { value, notes } = read(policy({ metadata, spec: { action: 'DENY', rules: [{}] } }));
    assert.equal(Reflect.get(Object(value), 'dryRun'), false);
    assert.match(notes[0] ?? '', /^metadata: /);
  });

  it('of PeerAuthentication that is broken is STRICT', () => {
    const { value, notes } = read(policy({ spec: { mtls: { mode: 'strict' } } }, 'PeerAuthentication'));
    assert.equal(Reflect.get(Object(value), 'mode'), 'STRICT');
    assert.match(notes.join('\n'), /spec\.mtls\.mode: .*\n.*counts as STRICT/);
  });

  it('says what is not supported: CUSTOM, and what would need a token', () => {
    const custom = read(policy({ spec: { action: 'CUSTOM', provider: { name: 'x' }, rules: [{}] } }));
    assert.match(custom.notes.join(), /CUSTOM is not supported/);
    const rules = [
      {
        from: [{ source: { requestPrincipals: ['*'] } }],
        when: [
          { key: 'source.ip', values: ['10.0.0.1'] },
          { key: 'request.auth.claims[a]', values: ['b'] },
        ],
      },
    ];
    assert.deepEqual(
      read(policy({ spec: { rules } })).notes.map((note) => note.split(': ', 1)[0]),
      ['spec.rules.0.from.0.source.requestPrincipals', 'spec.rules.0.when.1.key'],
    );
  });

  it('that allows nothing on purpose is nothing to be told', () => {
    assert.deepEqual(read(policy({})).notes, []);
  });
});

describe('policies in the folder', { timeout: 120_000 }, () => {
  it('are told as they come, change and go', async (t) => {
    const folder = await Folder.with(t, { 'a.yaml': deny('one') });
    assert.match(last(folder, 'policy', 'shop/p'), /"values":\["one"\]/);
    await folder.replace(
      'a.yaml',
      `${deny('two')}---\n${yaml('PeerAuthentication', 'm', 'spec: {mtls: {mode: STRICT}}\n')}`,
    );
    await until('the change', () => last(folder, 'policy', 'shop/p').includes('"values":["two"]'));
    assert.match(last(folder, 'peer-authentication', 'shop/m'), /STRICT/);
    await folder.replace('a.yaml', deny('two'));
    await until('its end', () => last(folder, 'peer-authentication', 'shop/m') === '');
    assert.deepEqual(folder.problems(), []);
  });

  it('are read as users bring them, without a word', async (t) => {
    const folder = await Folder.with(t, { 'policy.yaml': readFileSync(EXAMPLE, 'utf8') });
    assert.deepEqual(folder.now(), [
      'peer-authentication istio-system/default',
      'peer-authentication production/default',
      'policy production/backend-access',
    ]);
    assert.deepEqual(folder.problems(), []);
  });

  it('are told with file, line and field when they are wrong, and are in force as far as they can be', async (t) => {
    const folder = await Folder.with(t, { 'a.yaml': deny('one') });
    await folder.replace('a.yaml', deny('one').replace('namespaces:', 'namespacez:'));
    await until('the problem', () => folder.problems().length > 0);
    assert.match(
      folder.problems()[0] ?? '',
      /^a\.yaml:\d+: AuthorizationPolicy shop\/p: spec\.rules\[0\]\.from\[0\]\.source: .*namespacez/,
    );
    assert.match(folder.problems().join('\n'), /does NOT deny what it says/);
    await until('what is left', () => last(folder, 'policy', 'shop/p').includes('"rules":[]'));
  });

  it('keep their last good state when the file is no YAML any more', async (t) => {
    const folder = await Folder.with(t, { 'a.yaml': deny('one') });
    const before = folder.said.length;
    await folder.replace('a.yaml', deny('one').replace('[one]', '[one'));
    await until('the problem', () => folder.problems().length > 0);
    assert.match(folder.problems()[0] ?? '', /^a\.yaml:\d+: /);
    assert.equal(folder.said.length, before);
  });

  it('that could never be read keep a daemon that starts from deciding without them', async (t) => {
    const folder = await Folder.begun(t, {
      'a.yaml': deny('one').replace('[one]', '[one'),
      'b.yaml': deny('x', 'b'),
    });
    let isSynced = false;
    void folder.source.synced.then(() => (isSynced = true));
    await until('the other file', () => last(folder, 'policy', 'shop/b') !== '');
    assert.match(folder.problems().join('\n'), /a\.yaml: names policies.*decides nothing until it is mended/);
    assert.equal(isSynced, false);
    await folder.replace('a.yaml', deny('one'));
    await folder.source.synced;
    assert.match(last(folder, 'policy', 'shop/p'), /"values":\["one"\]/);
    assert.deepEqual(folder.problems(), []);
  });

  it('do not hold up enrolment, which reads none', async (t) => {
    const broken = deny('one').replace('[one]', '[one');
    const filter = { kinds: ['namespace', 'workload', 'node'] as const, node: 'node-a' };
    const folder = await Folder.with(t, { 'a.yaml': broken, 'b.yaml': deny('x') }, { filter });
    assert.deepEqual(folder.said, []);
  });
});
