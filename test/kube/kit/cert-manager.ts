/** cert-manager beside a control plane: its webhook and its controllers, built from its Go module, and its definitions. */
import { copyFileSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { parse } from 'yaml';
import { issue, makeCa } from '../../support/pki.ts';
import type { TestCa } from '../../support/pki.ts';
import { must } from '../../support/run.ts';
import { until } from '../../support/wait.ts';
import { API_PORT } from './addresses.ts';
import { cached } from './cache.ts';
import type { Recipe } from './cache.ts';
import type { ControlPlane } from './control-plane.ts';
import { namespace } from './fakes.ts';
import { goEnvironment } from './go.ts';
import type { KubeProcess } from './process.ts';

const MODULE = join(import.meta.dirname, '../cert-manager');
const UPSTREAM = 'github.com/cert-manager/cert-manager';
const BUILD_TIMEOUT_MS = 60 * 60_000;
const WEBHOOK_PORT = 10250;
/** As in its own installation; its service account. */
export const NAMESPACE = 'cert-manager';
export const CERT_MANAGER = `system:serviceaccount:${NAMESPACE}:cert-manager`;
/** What a CA issuer and a Certificate need. */
export const CONTROLLERS = [
  'certificaterequests-issuer-ca',
  'clusterissuers',
  'issuers',
  'certificates-issuing',
  'certificates-key-manager',
  'certificates-readiness',
  'certificates-request-manager',
  'certificates-revision-manager',
  'certificates-trigger',
] as const;
export const APPROVER = 'certificaterequests-approver';

const Downloaded = z.object({ Dir: z.string() });

/** `v1.18.6`, as go.mod has it. */
export function certManagerVersion(): string {
  const goMod = readFileSync(join(MODULE, 'go.mod'), 'utf8');
  const found = /^\tgithub\.com\/cert-manager\/cert-manager (v\S+)$/m.exec(goMod)?.[1];
  if (found === undefined) throw new Error(`${MODULE}/go.mod does not require ${UPSTREAM}`);
  return found;
}

export const certManagerRecipe: Recipe = {
  name: 'cert-manager',
  files: ['go.mod', 'go.sum', 'main.go'].map((file) => join(MODULE, file)),
  words: [process.arch],
  make: build,
};

/** A folder with `cert-manager`, one binary, and `crds`. Built when it is not there: minutes. */
export function certManager(): Promise<string> {
  return cached(certManagerRecipe);
}

async function build(target: string): Promise<void> {
  const env = { ...(await goEnvironment()), CGO_ENABLED: '0' };
  const options = { cwd: MODULE, env, timeoutMs: BUILD_TIMEOUT_MS };
  mkdirSync(join(target, 'crds'), { recursive: true });
  const flags = ['-trimpath', '-buildvcs=false', '-ldflags', '-s -w', '-o', join(target, 'cert-manager')];
  await must(['nice', '-n', '5', 'go', 'build', ...flags, '.'], options);
  const answer = await must(['go', 'mod', 'download', '-json', UPSTREAM], options);
  const from = join(Downloaded.parse(JSON.parse(answer)).Dir, 'deploy/crds');
  for (const file of readdirSync(from).filter((name) => name.endsWith('.yaml')))
    copyFileSync(join(from, file), join(target, 'crds', file));
}

export class CertManagerKit {
  readonly #plane: ControlPlane;
  readonly #binary: string;

  /** With its definitions and its webhook; `run` starts controllers. */
  static async start(plane: ControlPlane): Promise<CertManagerKit> {
    const folder = await certManager();
    await namespace(plane, NAMESPACE);
    for (const file of readdirSync(join(folder, 'crds')))
      await define(plane, parse(readFileSync(join(folder, 'crds', file), 'utf8')));
    const kit = new CertManagerKit(plane, join(folder, 'cert-manager'));
    await kit.#webhook();
    return kit;
  }

  private constructor(plane: ControlPlane, binary: string) {
    this.#plane = plane;
    this.#binary = binary;
  }

  /** A process with these controllers. */
  run(name: string, ...controllers: readonly string[]): Promise<KubeProcess> {
    const words = ['controller', '--kubeconfig', this.#kubeconfig(), '--controllers', controllers.join(',')];
    return this.#plane.spawn([this.#binary, ...words], name);
  }

  /** A CA issuer for the cluster, or another CA for it. */
  async issuer(name: string, ca: TestCa): Promise<void> {
    const stringData = { 'tls.crt': ca.certPem, 'tls.key': ca.keyPem, 'ca.crt': ca.certPem };
    const metadata = { name, namespace: NAMESPACE };
    await this.#plane.apply(
      { apiVersion: 'v1', kind: 'Secret', type: 'kubernetes.io/tls', metadata, stringData },
      {
        apiVersion: 'cert-manager.io/v1',
        kind: 'ClusterIssuer',
        metadata: { name },
        spec: { ca: { secretName: name } },
      },
    );
  }

  /** As its account is called; with more rights than its RBAC would give. */
  #kubeconfig(): string {
    const user = { name: CERT_MANAGER, groups: ['system:masters'] };
    return this.#plane.pki.kubeconfig('cert-manager', `https://127.0.0.1:${API_PORT}`, user);
  }

  async #webhook(): Promise<void> {
    const { home, api } = this.#plane;
    const ca = makeCa();
    const { chainPem, keyPem } = issue(ca, [], { ips: ['127.0.0.1'], usages: ['serverAuth'] });
    const [cert, key] = [join(home.dir, 'webhook.crt'), join(home.dir, 'webhook.key')];
    writeFileSync(cert, chainPem);
    writeFileSync(key, keyPem, { mode: 0o600 });
    const process = await this.#plane.spawn(
      [
        ...[this.#binary, 'webhook', '--kubeconfig', this.#kubeconfig(), '--metrics-listen-address', '0'],
        ...['--secure-port', String(WEBHOOK_PORT), '--tls-cert-file', cert, '--tls-private-key-file', key],
      ],
      'cert-manager-webhook',
    );
    await this.#plane.apply(...webhookConfigurations(ca.certPem));
    const metadata = { generateName: 'probe-', namespace: NAMESPACE };
    const probe = { apiVersion: 'cert-manager.io/v1', kind: 'Issuer', metadata, spec: { selfSigned: {} } };
    const path = `/apis/cert-manager.io/v1/namespaces/${NAMESPACE}/issuers`;
    await until(
      'cert-manager’s webhook',
      async () => (await api.ask('POST', `${path}?dryRun=All`, { body: probe })).status === 201,
      { timeoutMs: 60_000, everyMs: 200, detail: () => process.tail() },
    );
  }
}

/** Its own come as a Helm template: the labels are none. */
async function define({ api }: ControlPlane, given: unknown): Promise<void> {
  const { metadata, ...rest } = z
    .looseObject({ metadata: z.object({ name: z.string() }), spec: z.looseObject({ group: z.string() }) })
    .parse(given);
  const path = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions';
  await api.must('POST', path, { body: { ...rest, metadata: { name: metadata.name } } });
  const [plural = ''] = metadata.name.split('.');
  await until(
    `the definition of ${plural}`,
    async () => (await api.ask('GET', `/apis/${rest.spec.group}/v1/${plural}`)).status === 200,
  );
}

/** In such a namespace it validates nothing; by its chart's values it still writes there who asked. */
export const UNVALIDATED = { 'cert-manager.io/disable-validation': 'true' } as const;

/** As its chart has them, by URL instead of a Service. */
function webhookConfigurations(caPem: string): readonly unknown[] {
  const hook = (path: string, operations: readonly string[], resources: readonly string[]): object => ({
    name: 'webhook.cert-manager.io',
    rules: [{ apiGroups: ['cert-manager.io'], apiVersions: ['v1'], operations, resources }],
    admissionReviewVersions: ['v1'],
    matchPolicy: 'Equivalent',
    timeoutSeconds: 30,
    failurePolicy: 'Fail',
    sideEffects: 'None',
    clientConfig: {
      url: `https://127.0.0.1:${WEBHOOK_PORT}/${path}`,
      caBundle: Buffer.from(caPem).toString('base64'),
    },
  });
  const object = (kind: string, webhook: unknown): unknown => ({
    apiVersion: 'admissionregistration.k8s.io/v1',
    kind,
    metadata: { name: 'cert-manager-webhook' },
    webhooks: [webhook],
  });
  const matchExpressions = Object.entries(UNVALIDATED).map(([key, value]) => ({
    key,
    operator: 'NotIn',
    values: [value],
  }));
  return [
    object('MutatingWebhookConfiguration', hook('mutate', ['CREATE'], ['certificaterequests'])),
    object('ValidatingWebhookConfiguration', {
      ...hook('validate', ['CREATE', 'UPDATE'], ['*/*']),
      namespaceSelector: { matchExpressions },
    }),
  ];
}
