/** A cluster's certificates, as files: the flags of Kubernetes take paths. */
import { generateKeyPairSync } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { issue, makeCa } from '../../support/pki.ts';
import type { IssueOptions, Issued, TestCa } from '../../support/pki.ts';
import { ADDRESSES } from './addresses.ts';

const YEAR_MS = 365 * 86_400_000;

/** Who may do what is decided by the API server: a name and groups are all that a client certificate says. */
export interface ClusterUser {
  readonly name: string;
  readonly groups?: readonly string[];
}

export class ClusterPki {
  readonly dir: string;
  readonly #ca: TestCa;

  /** Makes everything that the control plane needs in `dir`. Takes about 10 ms. */
  constructor(dir: string) {
    this.dir = dir;
    this.#ca = makeCa('culvert test cluster');
    const frontProxy = makeCa('culvert test front proxy');
    this.#write('ca.crt', this.#ca.certPem);
    this.#write('ca.key', this.#ca.keyPem);
    this.#write('front-proxy-ca.crt', frontProxy.certPem);
    this.#pair('apiserver', this.#serving('kube-apiserver', API_SERVER_NAMES));
    this.#pair('apiserver-kubelet-client', this.client({ name: 'apiserver', groups: ['system:masters'] }));
    this.#pair('front-proxy-client', client(frontProxy, { name: 'front-proxy-client' }));
    const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    this.#write('sa.key', privateKey.export({ type: 'pkcs8', format: 'pem' }));
    this.#write('sa.pub', publicKey.export({ type: 'spki', format: 'pem' }));
  }

  get caPem(): string {
    return this.#ca.certPem;
  }

  path(file: string): string {
    return join(this.dir, file);
  }

  client(user: ClusterUser): Issued {
    return client(this.#ca, user);
  }

  /** Writes `<node>-serving.crt` and `.key` of a kubelet. */
  kubeletServing(node: string, ip: string): void {
    this.#pair(`${node}-serving`, this.#serving(`system:node:${node}`, { dns: [node], ips: [ip] }));
  }

  /** Writes a kubeconfig of `user` for the API server at `url`; gives its path. */
  kubeconfig(file: string, url: string, user: ClusterUser): string {
    const { chainPem, keyPem } = this.client(user);
    const credentials = {
      'client-certificate-data': Buffer.from(chainPem).toString('base64'),
      'client-key-data': Buffer.from(keyPem).toString('base64'),
    };
    return this.#write(`${file}.kubeconfig`, kubeconfig(url, this.caPem, user.name, credentials));
  }

  /** The same with a bearer token, as of a service account. */
  tokenKubeconfig(file: string, url: string, token: string): string {
    return this.#write(`${file}.kubeconfig`, kubeconfig(url, this.caPem, file, { token }));
  }

  #serving(commonName: string, names: { dns: readonly string[]; ips: readonly string[] }): Issued {
    return issue(this.#ca, [], { commonName, usages: ['serverAuth'], ...names, ...validity() });
  }

  #pair(name: string, { chainPem, keyPem }: Issued): void {
    this.#write(`${name}.crt`, chainPem);
    this.#write(`${name}.key`, keyPem);
  }

  #write(file: string, text: string): string {
    const path = this.path(file);
    writeFileSync(path, text, { mode: 0o600 });
    return path;
  }
}

const API_SERVER_NAMES = {
  dns: ['kubernetes', 'kubernetes.default', 'kubernetes.default.svc', 'localhost'],
  ips: ['127.0.0.1', ADDRESSES.controlPlane, ADDRESSES.apiService],
};

function client(ca: TestCa, { name, groups = [] }: ClusterUser): Issued {
  return issue(ca, [], { commonName: name, organizations: groups, usages: ['clientAuth'], ...validity() });
}

function validity(): Pick<IssueOptions, 'notAfter'> {
  return { notAfter: new Date(Date.now() + YEAR_MS) };
}

/** JSON is YAML. */
function kubeconfig(
  server: string,
  caPem: string,
  name: string,
  user: Readonly<Record<string, string>>,
): string {
  const ca = Buffer.from(caPem).toString('base64');
  return JSON.stringify({
    apiVersion: 'v1',
    kind: 'Config',
    clusters: [{ name: 'culvert', cluster: { server, 'certificate-authority-data': ca } }],
    users: [{ name, user }],
    contexts: [{ name: 'culvert', context: { cluster: 'culvert', user: name } }],
    'current-context': 'culvert',
  });
}
