/** Which CA a daemon asks. */
import type { Config } from '../../config.ts';
import { MeshError } from '../../errors.ts';
import type { KubeApi } from '../../kube/seams.ts';
import type { Clock } from '../clock.ts';
import { KubernetesCsr } from './kubernetes-csr.ts';
import { LocalCa } from './local.ts';
import type { CertificateSource } from './source.ts';

type SourceConfig = Pick<Config, 'certSource' | 'caDir' | 'trustDomain' | 'podNamespace' | 'nodeName'>;

export interface OpenOptions {
  readonly config: SourceConfig;
  /** undefined where the cluster is a folder. */
  readonly api: KubeApi | undefined;
  readonly clock: Clock;
  /** What went wrong and was survived. */
  readonly onProblem: (reason: string) => void;
}

/**
 * The CA that config `certSource` names; '' is the cluster's where there is an API, else the local one.
 * @throws MeshError CONFIG_INVALID, or CA_FOLDER_INVALID.
 */
export async function openCertificateSource({
  config,
  api,
  clock,
  onProblem,
}: OpenOptions): Promise<CertificateSource & Partial<AsyncDisposable>> {
  const { caDir: folder, trustDomain, podNamespace: namespace, nodeName } = config;
  const name = config.certSource || (api === undefined ? 'local' : 'kubernetes-csr');
  if (name === 'local') return LocalCa.open({ folder, trustDomain, clock });
  if (api === undefined)
    throw new MeshError('CONFIG_INVALID', `--cert-source: ${name} needs a Kubernetes API, not --cluster-dir`);
  if (name === 'kubernetes-csr') return new KubernetesCsr({ api, namespace, nodeName, clock, onProblem });
  throw new MeshError('CONFIG_INVALID', `--cert-source: ${name} is not built yet`);
}
