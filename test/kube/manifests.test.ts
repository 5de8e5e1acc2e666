/** The manifests as they are: no wider than they say, and accepted by a real API server, every one of them. */
import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { KNOB_NAMES, envOf, parseConfig } from '../../daemon/config.ts';
import { accessFindings } from '../../daemon/cli/cluster/rights.ts';
import { KubeClient } from '../../daemon/kube/client.ts';
import { openAccess } from '../../daemon/kube/config.ts';
import { until } from '../support/wait.ts';
import { ControlPlane } from './kit/control-plane.ts';
import {
  BENCH,
  POLICY_CRDS,
  ROOTS,
  at,
  entries,
  find,
  list,
  pathOf,
  render,
  renderFolder,
  text,
  texts,
} from './manifests.ts';
import type { Manifest, Root } from './manifests.ts';

const OWN = 'culvert-system';
/** What the downward API fills in. */
const DOWNWARD = {
  CULVERT_NODE_NAME: 'spec.nodeName',
  CULVERT_POD_NAME: 'metadata.name',
  CULVERT_POD_NAMESPACE: 'metadata.namespace',
  CULVERT_POD_UID: 'metadata.uid',
};

const rendered = new Map<Root, readonly Manifest[]>();
before(async () => {
  for (const root of [...ROOTS, BENCH, POLICY_CRDS] as const) rendered.set(root, await render(root));
});
const objectsOf = (root: Root): readonly Manifest[] => rendered.get(root) ?? [];
const podSpec = (root: Root, kind: string, name: string): unknown =>
  at(find(objectsOf(root), kind, name), 'spec', 'template', 'spec');
const container = (spec: unknown): unknown => at(spec, 'containers', 0);

/** A rule as the README's table has it: `account | verbs | resources [names] [where]`. */
interface Grant {
  readonly account: string;
  readonly verbs: string;
  readonly on: string;
}

/** What the rendered roles give each account of ours, one entry for each rule. */
function grants(root: Root): readonly Grant[] {
  const objects = objectsOf(root);
  const inNamespace = (namespace: unknown): readonly Manifest[] =>
    objects.filter(({ object }) => at(object, 'metadata', 'namespace') === namespace);
  return objects
    .filter(({ kind }) => kind.endsWith('RoleBinding'))
    .flatMap(({ object }) => {
      const namespace = at(object, 'metadata', 'namespace');
      const [kind, name] = [text(object, 'roleRef', 'kind'), text(object, 'roleRef', 'name')];
      const rules = list(find(inNamespace(namespace), kind, name), 'rules');
      const accounts = list(object, 'subjects').map((subject) => text(subject, 'name'));
      return accounts.flatMap((account) => rules.map((rule) => grant(account, rule, namespace)));
    });
}

function grant(account: string, rule: unknown, namespace: unknown): Grant {
  const [group = ''] = texts(rule, 'apiGroups');
  const resources = texts(rule, 'resources').map((one) => (group === '' ? one : `${group}/${one}`));
  const names = texts(rule, 'resourceNames').map((name) => ` \`${name}\``);
  const where =
    namespace === undefined
      ? ''
      : namespace === OWN
        ? ' in our namespace'
        : ` in namespace ${text(namespace)}`;
  return {
    account,
    verbs: [...texts(rule, 'verbs')].sort().join(', '),
    on: `${[...resources].sort().join(', ')}${names.join(',')}${where}`,
  };
}

/** The tables of grants, in the order that they stand in: for all, and what comes with one root or another. */
function tableGrants(): readonly (readonly Grant[])[] {
  const tables = readFileSync(pathOf('README.md'), 'utf8').split(/\n\n/);
  return tables
    .map((table) =>
      table
        .split('\n')
        .map((line) => line.split('|').map((cell) => cell.trim()))
        .filter(([, account]) => account === 'culvert' || account === 'culvert-ca')
        .map(([, account = '', verbs = '', on = '']) => ({ account, verbs, on })),
    )
    .filter((table) => table.length > 0);
}

const lineOf = ({ account, verbs, on }: Grant): string => `${account} may ${verbs} ${on}`;
const sorted = (all: readonly Grant[]): readonly string[] => all.map(lineOf).sort();

describe('RBAC', () => {
  it('is what the tables of manifests/README.md say, each verb with its reason', () => {
    const tables = tableGrants();
    assert.equal(tables.length, 4);
    const [common = [], ownCa = [], certManager = [], startupTaint = []] = tables;
    assert.deepEqual(sorted(grants('base')), sorted([...common, ...ownCa]));
    assert.deepEqual(sorted(grants('overlays/cert-manager')), sorted([...common, ...certManager]));
    const withTaint = sorted([...common, ...ownCa, ...startupTaint]);
    assert.deepEqual(sorted(grants('overlays/startup-taint')), withTaint);
    assert.ok(common.length > 15);
  });

  it('has no wildcard, no deletion, nothing that makes more of an account, and no Secret but by name', () => {
    for (const root of ROOTS)
      for (const { kind, name, object } of objectsOf(root).filter((one) => one.kind.endsWith('Role')))
        for (const rule of list(object, 'rules')) {
          const what = `${root}: ${kind} ${name}: ${JSON.stringify(rule)}`;
          const words = ['verbs', 'resources', 'apiGroups', 'resourceNames'].flatMap((key) =>
            texts(rule, key),
          );
          assert.ok(!words.some((word) => word.includes('*')), what);
          // Of certificate requests of daemons, which cert-manager would keep for ever.
          if (name === 'culvert-janitor')
            assert.deepEqual(rule, {
              apiGroups: ['cert-manager.io'],
              resources: ['certificaterequests'],
              verbs: ['delete'],
            });
          else assert.ok(!words.includes('delete'), what);
          for (const verb of ['deletecollection', 'bind', 'escalate', 'impersonate'])
            assert.ok(!words.includes(verb), what);
          const isNamed = texts(rule, 'resourceNames').length > 0 || texts(rule, 'verbs').join() === 'create';
          assert.ok(!texts(rule, 'resources').includes('secrets') || isNamed, what);
        }
  });

  it('binds our two accounts only, each in our namespace', () => {
    for (const root of ROOTS)
      for (const { kind, name, object } of objectsOf(root).filter((one) => one.kind.endsWith('Binding')))
        for (const subject of list(object, 'subjects')) {
          assert.match(text(subject, 'name'), /^culvert(?:-ca)?$/, `${kind} ${name}`);
          assert.equal(text(subject, 'namespace'), OWN);
        }
  });
});

describe('the DaemonSet', () => {
  it('is given what it needs, and nothing more', () => {
    const spec = podSpec('base', 'DaemonSet', 'culvert');
    const security = at(container(spec), 'securityContext');
    assert.deepEqual(texts(security, 'capabilities', 'drop'), ['ALL']);
    assert.deepEqual(texts(security, 'capabilities', 'add'), [
      'BPF',
      'NET_ADMIN',
      'SYS_ADMIN',
      'SYS_PTRACE',
      'SYS_CHROOT',
    ]);
    assert.equal(at(security, 'privileged'), false);
    assert.equal(at(security, 'allowPrivilegeEscalation'), false);
    assert.equal(at(security, 'readOnlyRootFilesystem'), true);
    assert.equal(at(security, 'appArmorProfile', 'type'), 'Unconfined');
    assert.equal(at(security, 'seLinuxOptions', 'type'), 'spc_t');
    assert.equal(at(spec, 'securityContext', 'seccompProfile', 'type'), 'RuntimeDefault');
    assert.equal(at(spec, 'hostPID'), true);
    for (const other of ['hostNetwork', 'hostIPC', 'initContainers'])
      assert.equal(at(spec, other), undefined, other);
    assert.deepEqual(
      list(spec, 'volumes').map((volume) => text(volume, 'hostPath', 'path')),
      ['/sys/fs/cgroup', '/sys/fs/bpf', '/run/culvert'],
    );
  });

  it('goes to every node, hands over while both live, and may drain to its end', () => {
    const daemonSet = find(objectsOf('base'), 'DaemonSet', 'culvert');
    const spec = podSpec('base', 'DaemonSet', 'culvert');
    assert.deepEqual(at(spec, 'tolerations'), [{ operator: 'Exists' }]);
    assert.equal(at(spec, 'priorityClassName'), 'system-node-critical');
    assert.deepEqual(at(daemonSet, 'spec', 'updateStrategy', 'rollingUpdate'), {
      maxSurge: 1,
      maxUnavailable: 0,
    });
    assert.ok(!list(container(spec), 'ports').some((port) => at(port, 'hostPort') !== undefined));
    for (const root of ROOTS) {
      const graceMs =
        Number(at(podSpec(root, 'DaemonSet', 'culvert'), 'terminationGracePeriodSeconds')) * 1_000;
      assert.ok(graceMs > configOf(root).drainSeconds, root);
    }
  });
});

function configOf(root: Root): ReturnType<typeof parseConfig> {
  const env = entries(find(objectsOf(root), 'ConfigMap', 'culvert-config'), 'data');
  return parseConfig({}, { ...DOWNWARD, ...env });
}

describe('settings', () => {
  it('are knobs, with values that the daemon takes', () => {
    const known = new Set(KNOB_NAMES.map((name) => envOf(name)));
    for (const root of ROOTS) {
      const data = entries(find(objectsOf(root), 'ConfigMap', 'culvert-config'), 'data');
      assert.deepEqual(
        Object.keys(data).filter((key) => !known.has(key)),
        [],
        root,
      );
      assert.equal(configOf(root).podNamespace, 'metadata.namespace');
    }
    assert.equal(configOf('overlays/cert-manager').certSource, 'cert-manager');
  });

  it('come with what the downward API knows, in both workloads', () => {
    for (const [kind, name] of [
      ['DaemonSet', 'culvert'],
      ['Deployment', 'culvert-ca'],
    ] as const) {
      const env = list(container(podSpec('base', kind, name)), 'env');
      const paths = env.map((one) => [text(one, 'name'), text(one, 'valueFrom', 'fieldRef', 'fieldPath')]);
      assert.deepEqual(Object.fromEntries(paths), DOWNWARD);
    }
  });

  it('name one image, which only the overlays for an image made here say where to find', () => {
    for (const root of ROOTS) {
      const expected =
        root === 'overlays/dev' || root === 'overlays/kind' ? 'localhost/culvert:dev' : 'culvert';
      for (const [kind, name] of [
        ['DaemonSet', 'culvert'],
        ['Deployment', 'culvert-ca'],
      ] as const)
        assert.equal(text(container(podSpec(root, kind, name)), 'image'), expected, `${root} ${kind}`);
    }
  });
});

describe('the overlay cert-manager', () => {
  for (const [issuer, bundle] of [
    ['ClusterIssuer/corp', 'ConfigMap/trust/corp-roots/ca.crt'],
    ['Issuer/team.issuer', 'Secret/culvert-system/team-ca/tls.crt'],
  ] as const)
    it(`gives rights on what its config.yaml names: ${issuer}, ${bundle}`, async () => {
      const folder = mkdtempSync(path.join(tmpdir(), 'culvert-manifests-'));
      try {
        cpSync(pathOf('README.md').replace(/README\.md$/, ''), folder, { recursive: true });
        const overlay = path.join(folder, 'overlays/cert-manager');
        const config = path.join(overlay, 'config.yaml');
        const named = readFileSync(config, 'utf8')
          .replace(/(CULVERT_CERT_ISSUER:) .*/, `$1 ${issuer}`)
          .replace(/(CULVERT_CERT_ISSUER_BUNDLE:) .*/, `$1 ${bundle}`);
        writeFileSync(config, named);
        const objects = await renderFolder(overlay);
        const [, issuerName = ''] = issuer.split('/');
        const approves = texts(
          find(objects, 'ClusterRole', 'culvert-cert-manager'),
          'rules',
          2,
          'resourceNames',
        );
        assert.deepEqual(approves, [
          `clusterissuers.cert-manager.io/${issuerName}`,
          `issuers.cert-manager.io/${OWN}.${issuerName}`,
        ]);
        const [, namespace, name] = bundle.split('/');
        for (const kind of ['Role', 'RoleBinding'])
          assert.equal(
            text(find(objects, kind, 'culvert-issuer-bundle'), 'metadata', 'namespace'),
            namespace,
          );
        const reads = find(objects, 'Role', 'culvert-issuer-bundle');
        assert.deepEqual(texts(reads, 'rules', 0, 'resourceNames'), [name]);
      } finally {
        rmSync(folder, { recursive: true });
      }
    });
});

describe('culvert-ca', () => {
  it('runs as nobody, twice, and not both on a node that is being drained', () => {
    const spec = podSpec('base', 'Deployment', 'culvert-ca');
    assert.equal(at(spec, 'securityContext', 'runAsNonRoot'), true);
    assert.deepEqual(at(container(spec), 'securityContext', 'capabilities'), { drop: ['ALL'] });
    assert.equal(at(container(spec), 'securityContext', 'readOnlyRootFilesystem'), true);
    assert.equal(at(spec, 'volumes'), undefined);
    assert.equal(at(find(objectsOf('base'), 'Deployment', 'culvert-ca'), 'spec', 'replicas'), 2);
    const budget = find(objectsOf('base'), 'PodDisruptionBudget', 'culvert-ca');
    assert.equal(at(budget, 'spec', 'minAvailable'), 1);
  });
});

describe('a real API server', () => {
  let cluster: ControlPlane;
  before(async () => {
    cluster = await ControlPlane.start();
    // A dry run makes no namespace for the objects in it.
    for (const name of [OWN, 'cert-manager', 'culvert-bench'])
      await cluster.apply({ apiVersion: 'v1', kind: 'Namespace', metadata: { name } });
  });
  after(() => cluster[Symbol.asyncDispose]());

  for (const root of [...ROOTS, BENCH, POLICY_CRDS] as const)
    it(`takes every object of ${root} (server-side dry run)`, async () => {
      const out = await cluster.kubectl(['apply', '--server-side', '--dry-run=server', '-k', pathOf(root)]);
      assert.equal(out.trim().split('\n').length, objectsOf(root).length);
    });

  it('gives what `culvert check` asks for, and with cert-manager takes away what our own CA needs', async () => {
    using api = new KubeClient(openAccess(cluster.kubeconfig, {}), { userAgent: 'test' });
    let said: readonly string[] = [];
    // The authorizer hears of a change in a moment.
    const says = (certSource: string, wanted: readonly RegExp[]): Promise<boolean> =>
      until(
        `what check says with ${certSource}`,
        async () => {
          const findings = await accessFindings(api, { systemNamespace: OWN, certSource });
          said = findings.map(({ detail }) => detail);
          return wanted.every((one, i) => one.test(said[i] ?? ''));
        },
        { detail: () => said.join('\n') },
      );
    const all = [/^\d+ asked$/, /^\d+ asked$/, /^\d+ asked$/];
    await cluster.kubectl(['apply', '-k', pathOf('base')]);
    await says('', all);
    await cluster.kubectl(['apply', '-k', pathOf('overlays/cert-manager')]);
    await says('cert-manager', all);
    await says('', [
      /^not: create certificatesigningrequests$/,
      /^not: watch certificatesigningrequests; approve .*; sign .*; get secrets culvert-ca$/,
    ]);
  });

  it('compiles the admission policies without a warning', async () => {
    const { code, stderr } = await cluster.tryKubectl(['apply', '-k', pathOf('base')]);
    assert.equal(code, 0, stderr);
    assert.equal(stderr, '');
  });
});
