import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { readObjects } from '../../daemon/cluster/documents.ts';
import { objectsIn, translate } from '../../daemon/cluster/objects.ts';
import type { Translation } from '../../daemon/cluster/objects.ts';

const POD = {
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: {
    name: 'web-5d4f8c-x2x',
    namespace: 'shop',
    uid: '0b1c2d3e-0000-4000-8000-000000000001',
    creationTimestamp: '2026-11-20T10:00:00Z',
    labels: { app: 'web', 'pod-template-hash': '5d4f8c', 'culvert.dev/mesh': 'enabled' },
    annotations: {
      'culvert.dev/exclude-outbound-cidrs': '10.1.2.3/8, fd00::1/64',
      'culvert.dev/cut-existing': 'true',
    },
    ownerReferences: [
      { apiVersion: 'apps/v1', kind: 'ReplicaSet', name: 'web-5d4f8c', uid: 'x', controller: true },
    ],
    managedFields: [{ anything: [1, 2] }],
  },
  spec: {
    nodeName: 'node-a',
    serviceAccountName: 'web',
    containers: [
      {
        name: 'app',
        image: 'x',
        ports: [{ containerPort: 8080 }, { containerPort: 53, protocol: 'UDP' }],
      },
    ],
    tolerations: [{ key: 'a' }],
  },
  status: {
    phase: 'Running',
    podIP: '10.244.1.5',
    podIPs: [{ ip: '10.244.1.5' }, { ip: 'FD00:1:0::5' }],
    conditions: [{ type: 'Ready', status: 'True', lastProbeTime: null }],
  },
};

type Change = (pod: typeof POD & Record<string, unknown>) => unknown;

function changed(change: Change): Translation {
  const copy = structuredClone(POD);
  const value = change(copy) ?? copy;
  return translate(value);
}

function workload(translation: Translation): Record<string, unknown> {
  assert.ok(
    translation.kind === 'object' && translation.delta?.kind === 'workload',
    JSON.stringify(translation),
  );
  assert.ok(translation.delta.value !== undefined);
  return { ...translation.delta.value };
}

/** A pod with more in its spec. */
const withSpec = (more: object): Translation =>
  changed((pod) => ({ ...pod, spec: { ...pod.spec, ...more } }));
const withMeta = (more: object): Translation =>
  changed((pod) => ({ ...pod, metadata: { ...pod.metadata, ...more } }));

describe('a Pod', () => {
  it('is read as kubectl prints it', () => {
    assert.deepEqual(workload(translate(POD)), {
      uid: POD.metadata.uid,
      name: 'web-5d4f8c-x2x',
      namespace: 'shop',
      serviceAccount: 'web',
      node: 'node-a',
      ips: ['10.244.1.5', 'fd00:1::5'],
      labels: POD.metadata.labels,
      hostNetwork: false,
      phase: 'Running',
      meshLabel: 'enabled',
      otherMesh: undefined,
      foreignRuntime: undefined,
      secondaryNetworks: undefined,
      os: 'linux',
      containerPorts: [8080],
      excludeOutboundCidrs: ['10.0.0.0/8', 'fd00::/64'],
      cutExisting: true,
      allowNestedNetns: false,
      terminating: false,
      ready: true,
      createdMs: Date.parse('2026-11-20T10:00:00Z'),
      owner: 'Deployment/web',
    });
  });

  it('needs no more than a name, a UID and a spec', () => {
    const least = workload(
      translate({ apiVersion: 'v1', kind: 'Pod', metadata: { name: 'a', uid: 'u1' }, spec: {} }),
    );
    assert.deepEqual(
      [
        least['namespace'],
        least['serviceAccount'],
        least['phase'],
        least['node'],
        least['ips'],
        least['ready'],
      ],
      ['default', 'default', 'Pending', '', [], false],
    );
  });

  it('takes null for absent, as kubectl does', () => {
    const nulls = withMeta({ annotations: null, ownerReferences: null, deletionTimestamp: null });
    assert.equal(workload(nulls)['terminating'], false);
  });

  it('shows the signs of another mesh', () => {
    const signs = [
      withMeta({ labels: { 'istio.io/dataplane-mode': 'ambient' } }),
      withMeta({ annotations: { 'ambient.istio.io/redirection': 'enabled' } }),
      withMeta({ annotations: { 'sidecar.istio.io/status': '{}' } }),
      withSpec({ containers: [{ name: 'istio-proxy' }] }),
      withSpec({ initContainers: [{ name: 'linkerd-proxy', restartPolicy: 'Always' }] }),
    ];
    for (const sign of signs) assert.equal(typeof workload(sign)['otherMesh'], 'string');
  });

  it('shows what keeps it from being enrolled', () => {
    assert.equal(workload(withSpec({ hostNetwork: true }))['hostNetwork'], true);
    assert.equal(workload(withSpec({ runtimeClassName: 'kata-qemu' }))['foreignRuntime'], 'kata-qemu');
    assert.equal(workload(withSpec({ runtimeClassName: 'nvidia' }))['foreignRuntime'], undefined);
    assert.equal(workload(withSpec({ os: { name: 'windows' } }))['os'], 'windows');
    assert.equal(workload(withSpec({ nodeSelector: { 'kubernetes.io/os': 'windows' } }))['os'], 'windows');
    const multus = withMeta({ annotations: { 'k8s.v1.cni.cncf.io/networks': 'storage' } });
    assert.equal(workload(multus)['secondaryNetworks'], 'storage');
  });

  it('stays usable with a misspelt switch, which is told', () => {
    const translation = withMeta({ labels: { 'culvert.dev/mesh': 'on' } });
    assert.equal(workload(translation)['meshLabel'], undefined);
    assert.ok(translation.kind === 'object');
    assert.deepEqual(
      translation.notes.map(({ path }) => path.join('.')),
      ['metadata.labels.culvert.dev/mesh'],
    );
    const range = withMeta({
      annotations: { 'culvert.dev/exclude-outbound-cidrs': '10.0.0.0/8,everything' },
    });
    assert.deepEqual(workload(range)['excludeOutboundCidrs'], ['10.0.0.0/8']);
    assert.equal(range.kind === 'object' && range.notes.length, 1);
  });

  const wrong: readonly [string, Translation, string][] = [
    ['a number for a node', withSpec({ nodeName: 7 }), 'spec.nodeName'],
    ['a word for a flag', withSpec({ hostNetwork: 'yes' }), 'spec.hostNetwork'],
    ['no UID', withMeta({ uid: undefined }), 'metadata.uid'],
    ['a name that is none', withMeta({ name: '../etc' }), 'metadata.name'],
    [
      'an account that no identity can carry',
      withSpec({ serviceAccountName: 'a/ns/b' }),
      'spec.serviceAccountName',
    ],
    ['a number for a label', withMeta({ labels: { a: 1 } }), 'metadata.labels.a'],
    [
      'a port too high',
      withSpec({ containers: [{ name: 'a', ports: [{ containerPort: 65_536 }] }] }),
      'spec.containers.0.ports.0.containerPort',
    ],
    ['a long name', withMeta({ name: 'a'.repeat(254) }), 'metadata.name'],
    [
      'too many labels',
      withMeta({ labels: Object.fromEntries(Array.from({ length: 257 }, (_, i) => [`l${i}`, ''])) }),
      'metadata.labels',
    ],
    ['an older version', changed((pod) => ({ ...pod, apiVersion: 'v2' })), 'apiVersion'],
  ];
  for (const [what, translation, path] of wrong)
    it(`with ${what} is refused at ${path}`, () => {
      assert.ok(translation.kind === 'invalid', JSON.stringify(translation));
      assert.equal(translation.problems[0]?.path.join('.'), path);
    });
});

describe('other kinds', () => {
  const delta = (value: object): unknown => {
    const translation = translate(value);
    assert.ok(translation.kind === 'object', JSON.stringify(translation));
    return translation.delta?.value;
  };

  it('reads a Node', () => {
    const value = delta({
      apiVersion: 'v1',
      kind: 'Node',
      metadata: { name: 'node-a', labels: { 'topology.kubernetes.io/zone': 'z1' } },
      spec: { podCIDR: '10.244.1.0/24', podCIDRs: ['10.244.1.0/24', 'fd00:1::/64'] },
      status: {
        addresses: [
          { type: 'InternalIP', address: '172.16.0.1' },
          { type: 'Hostname', address: 'node-a' },
        ],
        daemonEndpoints: { kubeletEndpoint: { Port: 10250 } },
      },
    });
    assert.deepEqual(value, {
      name: 'node-a',
      podCidrs: ['10.244.1.0/24', 'fd00:1::/64'],
      addresses: ['172.16.0.1'],
      zone: 'z1',
      kubeletPort: 10250,
    });
  });

  it('reads a Service with its TCP ports', () => {
    const value = delta({
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: 'web', namespace: 'shop' },
      spec: {
        type: 'LoadBalancer',
        clusterIP: '10.96.0.1',
        clusterIPs: ['10.96.0.1', 'fd00:96::1'],
        externalIPs: ['192.0.2.1'],
        selector: { app: 'web' },
        ports: [
          { name: 'http', port: 80, targetPort: 'web', nodePort: 30080, protocol: 'TCP' },
          { name: 'dns', port: 53, protocol: 'UDP' },
        ],
        sessionAffinity: 'ClientIP',
        sessionAffinityConfig: { clientIP: { timeoutSeconds: 60 } },
        trafficDistribution: 'PreferClose',
      },
      status: { loadBalancer: { ingress: [{ ip: '198.51.100.1' }, { hostname: 'lb.example' }] } },
    });
    assert.deepEqual(value, {
      name: 'web',
      namespace: 'shop',
      type: 'LoadBalancer',
      clusterIps: ['10.96.0.1', 'fd00:96::1'],
      externalIps: ['192.0.2.1', '198.51.100.1'],
      ports: [{ name: 'http', port: 80, nodePort: 30080 }],
      hasSelector: true,
      sessionAffinity: 'ClientIP',
      affinityTimeoutMs: 60_000,
      internalTrafficPolicy: 'Cluster',
      trafficDistribution: 'PreferSameZone',
      publishNotReadyAddresses: false,
    });
  });

  it('gives a headless Service no address', () => {
    const value = delta({
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: 'db' },
      spec: { clusterIP: 'None', clusterIPs: ['None'] },
    });
    assert.ok(typeof value === 'object' && value !== null && 'clusterIps' in value);
    assert.deepEqual(value.clusterIps, []);
  });

  it('reads an EndpointSlice, with the defaults of its conditions', () => {
    const value = delta({
      apiVersion: 'discovery.k8s.io/v1',
      kind: 'EndpointSlice',
      metadata: { name: 'web-1', namespace: 'shop', labels: { 'kubernetes.io/service-name': 'web' } },
      addressType: 'IPv4',
      endpoints: [
        {
          addresses: ['10.244.1.5', '10.244.1.6'],
          nodeName: 'node-a',
          zone: 'z1',
          targetRef: { kind: 'Pod', uid: 'u1' },
        },
        { addresses: ['192.0.2.9'], conditions: { ready: false, serving: true, terminating: true } },
        { addresses: ['nonsense'] },
      ],
      ports: [
        { name: 'http', port: 8080, protocol: 'TCP' },
        { name: 'dns', port: 53, protocol: 'UDP' },
        { port: 9 },
      ],
    });
    const common = { podUid: undefined, node: undefined, zone: undefined };
    assert.deepEqual(value, {
      name: 'web-1',
      namespace: 'shop',
      serviceName: 'web',
      family: 'IPv4',
      ports: { http: 8080, '': 9 },
      endpoints: [
        {
          ip: '10.244.1.5',
          podUid: 'u1',
          node: 'node-a',
          zone: 'z1',
          ready: true,
          serving: true,
          terminating: false,
        },
        { ...common, ip: '192.0.2.9', ready: false, serving: true, terminating: true },
      ],
    });
  });

  it('accepts a ServiceAccount without a word, and leaves other kinds alone', () => {
    const account = translate({ apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'web' } });
    assert.ok(account.kind === 'object' && account.delta === undefined);
    for (const foreign of [
      { apiVersion: 'apps/v1', kind: 'Deployment', metadata: {} },
      { apiVersion: 'serving.knative.dev/v1', kind: 'Service', metadata: {} },
    ])
      assert.equal(translate(foreign).kind, 'foreign');
  });

  it('takes Lists apart, typed ones too', () => {
    const list = { apiVersion: 'v1', kind: 'List', items: [POD, POD] };
    assert.deepEqual(
      objectsIn(list).map(({ path }) => path.join('.')),
      ['items.0', 'items.1'],
    );
    const bare = { metadata: POD.metadata, spec: POD.spec };
    const [item] = objectsIn({ apiVersion: 'v1', kind: 'PodList', metadata: {}, items: [bare] });
    assert.equal(translate(item?.value).kind, 'object');
  });
});

describe('whatever comes in', () => {
  it('is translated or refused, never thrown at the caller', () => {
    const kinds = [
      'Pod',
      'Node',
      'Namespace',
      'Service',
      'EndpointSlice',
      'ServiceAccount',
      'List',
      'PodList',
    ];
    const anyObject = fc.tuple(fc.constantFrom(...kinds), fc.object({ maxDepth: 4 })).map(([kind, rest]) => ({
      ...rest,
      apiVersion: kind === 'EndpointSlice' ? 'discovery.k8s.io/v1' : 'v1',
      kind,
    }));
    fc.assert(
      fc.property(fc.oneof(fc.anything(), anyObject), (value) => {
        for (const each of objectsIn(value)) translate(each.value);
      }),
      { numRuns: 2_000 },
    );
  });

  it('survives one field of a good Pod being anything', () => {
    const paths = pathsOf(POD, []);
    fc.assert(
      fc.property(fc.constantFrom(...paths), fc.anything(), (path, value) => {
        const { kind } = translate(replaced(POD, path, value));
        assert.ok(['object', 'invalid', 'foreign'].includes(kind));
      }),
      { numRuns: 2_000 },
    );
  });

  it('is text: any text gives objects or problems', () => {
    const pieces = fc.constantFrom(
      'kind: Pod\n',
      'apiVersion: v1\n',
      '---\n',
      'metadata: {name: a}\n',
      '&a ',
      '*a',
      '- ',
      '{',
      ']',
      '"',
      '\t',
      ': ',
      '!!int ',
      '<<: ',
      '\n',
      '%YAML 1.1\n',
      'a',
    );
    fc.assert(
      fc.property(
        fc.array(fc.oneof(pieces, fc.string()), { maxLength: 20 }),
        fc.boolean(),
        (parts, isJson) => {
          const content = readObjects(parts.join(''), isJson);
          assert.ok(!content.isBroken || content.problems.length > 0);
        },
      ),
      { numRuns: 1_000 },
    );
  });
});

describe('lines', () => {
  it('names the line of a broken text', () => {
    const content = readObjects('kind: Pod\nmetadata:\n  name: a\n name: b\n', false);
    assert.equal(content.isBroken, true);
    assert.equal(content.problems[0]?.line, 4);
  });

  it('names the line of a wrong value, in the right document and in a List', () => {
    const good = 'apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n';
    const bad = 'apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  uid: u1\nspec:\n  hostNetwork: "yes"\n';
    const [problem] = readObjects(`${good}---\n${bad}`, false).problems;
    assert.equal(problem?.line, 12);
    assert.match(problem.reason, /^Pod default\/a: spec\.hostNetwork: /);
    const indented = bad
      .trimEnd()
      .split('\n')
      .map((line) => `  ${line}`)
      .join('\n')
      .replace('  ', '- ');
    const [inList] = readObjects(`apiVersion: v1\nkind: List\nitems:\n${indented}\n`, false).problems;
    assert.equal(inList?.line, 10);
  });

  it('names the line in JSON too', () => {
    const text = JSON.stringify({ ...POD, spec: { nodeName: 7 } }, undefined, 1);
    const [problem] = readObjects(text, true).problems;
    const expected = text.split('\n').findIndex((line) => line.includes('nodeName')) + 1;
    assert.equal(problem?.line, expected);
  });

  it('refuses an alias bomb and endless nesting quickly', () => {
    const bomb = ['a: &a [x,x,x,x,x,x,x,x,x]'];
    for (let i = 0; i < 12; i++) {
      const [old, next] = [String.fromCharCode(97 + i), String.fromCharCode(98 + i)];
      bomb.push(`${next}: &${next} [${Array.from({ length: 9 }, () => `*${old}`).join(',')}]`);
    }
    assert.equal(readObjects(bomb.join('\n'), false).isBroken, true);
    assert.equal(readObjects('['.repeat(100_000), false).isBroken, true);
  });
});

type Path = readonly (string | number)[];

function pathsOf(value: unknown, path: Path): Path[] {
  if (typeof value !== 'object' || value === null) return [path];
  return [path, ...Object.entries(value).flatMap(([key, inner]) => pathsOf(inner, [...path, key]))];
}

function replaced(value: unknown, [step, ...rest]: Path, by: unknown): unknown {
  if (step === undefined) return by;
  if (Array.isArray(value))
    return value.map((item: unknown, i) => (String(i) === step ? replaced(item, rest, by) : item));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) => [key, key === step ? replaced(inner, rest, by) : inner]),
  );
}
