/** The certificates of a daemon, from the CA that its configuration names. */
import type { Config } from '../config.ts';
import { MeshError } from '../errors.ts';
import type { KubeApi } from '../kube/seams.ts';
import { Certificates } from './certificates.ts';
import { systemClock } from './clock.ts';
import { parseIssuer } from './issuer-ref.ts';
import { CertManager } from './sources/cert-manager.ts';
import { KubernetesCsr } from './sources/kubernetes-csr.ts';
import { LocalCa } from './sources/local.ts';
import type { CertificateSource } from './sources/source.ts';

export interface CertificatesConfig {
  readonly config: Pick<
    Config,
    | 'certSource'
    | 'certIssuer'
    | 'caDir'
    | 'trustDomain'
    | 'podNamespace'
    | 'podName'
    | 'podUid'
    | 'nodeName'
    | 'certLifetime'
  >;
  /** undefined where the cluster is a folder. */
  readonly api: KubeApi | undefined;
  /** Nodes of the mesh now. */
  readonly nodes: () => number;
  /** What went wrong and was survived, by its part. */
  readonly onProblem: (part: string, why: string) => void;
}

/** Certificates and the source that they come from, which end together. */
export interface OpenCertificates extends AsyncDisposable {
  readonly certificates: Certificates;
  readonly sourceName: string;
}

/** @throws MeshError CONFIG_INVALID when the source can't be had here, CA_FOLDER_INVALID. */
export async function openCertificates(options: CertificatesConfig): Promise<OpenCertificates> {
  const { trustDomain, certLifetime: lifetimeMs } = options.config;
  await using parts = new AsyncDisposableStack();
  const source = await openSource(options);
  parts.defer(() => source[Symbol.asyncDispose]?.());
  const { nodes } = options;
  const certificates = parts.use(
    new Certificates({ source, trustDomain, lifetimeMs, clock: systemClock, nodes }),
  );
  const all = parts.move();
  return { certificates, sourceName: source.name, [Symbol.asyncDispose]: () => all.disposeAsync() };
}

/** What config `certSource` names; '' is the cluster's CA where there is an API, else the local one. */
async function openSource({
  config,
  api,
  onProblem,
}: CertificatesConfig): Promise<CertificateSource & Partial<AsyncDisposable>> {
  const { caDir: folder, trustDomain, podNamespace: namespace, nodeName } = config;
  const clock = systemClock;
  const name = config.certSource || (api === undefined ? 'local' : 'kubernetes-csr');
  if (name === 'local') return LocalCa.open({ folder, trustDomain, clock });
  if (api === undefined)
    throw new MeshError('CONFIG_INVALID', `--cert-source: ${name} needs a Kubernetes API, not --cluster-dir`);
  const onBundleProblem = (why: string): void => onProblem('trust bundle', why);
  const options = { api, namespace, nodeName, clock, onProblem: onBundleProblem };
  if (name === 'kubernetes-csr') return new KubernetesCsr(options);
  const { podName, podUid } = config;
  return new CertManager({ ...options, podName, podUid, issuer: parseIssuer(config.certIssuer) });
}
