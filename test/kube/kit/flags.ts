/** The command lines of a control plane. All of it lives in one network namespace, so that ports are fixed. */
import { ADDRESSES, API_PORT } from './addresses.ts';
import type { ClusterPki } from './pki.ts';

const ETCD_URL = 'http://127.0.0.1:2379';
const ETCD_PEER_URL = 'http://127.0.0.1:2380';
const ISSUER = 'https://kubernetes.default.svc.cluster.local';

/** On in the API server and in kubelets. */
export const FEATURE_GATES: Readonly<Record<string, boolean>> = {
  ClusterTrustBundle: true,
  ClusterTrustBundleProjection: true,
};

/** `--flag=value` for each entry. */
function words(flags: Readonly<Record<string, string | number | boolean>>): string[] {
  return Object.entries(flags).map(([name, value]) => `--${name}=${value}`);
}

export function etcdFlags(dataDir: string): string[] {
  return words({
    'data-dir': dataDir,
    // What is in it dies with the cluster; a killed etcd that comes back finds its pages in the cache all the same.
    'unsafe-no-fsync': true,
    'listen-client-urls': ETCD_URL,
    'advertise-client-urls': ETCD_URL,
    'listen-peer-urls': ETCD_PEER_URL,
    'initial-advertise-peer-urls': ETCD_PEER_URL,
    'initial-cluster': `default=${ETCD_PEER_URL}`,
    'log-level': 'warn',
  });
}

export function apiServerFlags(pki: ClusterPki, featureGates: Readonly<Record<string, boolean>>): string[] {
  return words({
    'etcd-servers': ETCD_URL,
    'bind-address': '0.0.0.0',
    'advertise-address': ADDRESSES.controlPlane,
    'secure-port': API_PORT,
    'service-cluster-ip-range': ADDRESSES.serviceCidr,
    'authorization-mode': 'Node,RBAC',
    'enable-admission-plugins': 'NodeRestriction',
    'allow-privileged': true,
    // Webhooks are called at their pods: no kube-proxy runs here.
    'enable-aggregator-routing': true,
    'client-ca-file': pki.path('ca.crt'),
    'tls-cert-file': pki.path('apiserver.crt'),
    'tls-private-key-file': pki.path('apiserver.key'),
    'kubelet-client-certificate': pki.path('apiserver-kubelet-client.crt'),
    'kubelet-client-key': pki.path('apiserver-kubelet-client.key'),
    'kubelet-certificate-authority': pki.path('ca.crt'),
    'kubelet-preferred-address-types': 'InternalIP',
    'service-account-key-file': pki.path('sa.pub'),
    'service-account-signing-key-file': pki.path('sa.key'),
    'service-account-issuer': ISSUER,
    'api-audiences': ISSUER,
    'requestheader-client-ca-file': pki.path('front-proxy-ca.crt'),
    'requestheader-allowed-names': 'front-proxy-client',
    'requestheader-username-headers': 'X-Remote-User',
    'requestheader-group-headers': 'X-Remote-Group',
    'requestheader-extra-headers-prefix': 'X-Remote-Extra-',
    'proxy-client-cert-file': pki.path('front-proxy-client.crt'),
    'proxy-client-key-file': pki.path('front-proxy-client.key'),
    'runtime-config': 'certificates.k8s.io/v1beta1/clustertrustbundles=true',
    'feature-gates': Object.entries(featureGates)
      .map(([gate, isOn]) => `${gate}=${isOn}`)
      .join(','),
  });
}

export function controllerManagerFlags(pki: ClusterPki, kubeconfig: string, controllers: string): string[] {
  return words({
    ...clientFlags(kubeconfig),
    controllers,
    'service-account-private-key-file': pki.path('sa.key'),
    'root-ca-file': pki.path('ca.crt'),
    'cluster-signing-cert-file': pki.path('ca.crt'),
    'cluster-signing-key-file': pki.path('ca.key'),
    'use-service-account-credentials': true,
    'cluster-cidr': ADDRESSES.clusterCidr,
    'service-cluster-ip-range': ADDRESSES.serviceCidr,
    // The kit gives nodes their ranges: routes and CNI are set before the node registers.
    'allocate-node-cidrs': false,
    'node-monitor-period': '2s',
    'node-monitor-grace-period': '20s',
  });
}

export function schedulerFlags(kubeconfig: string): string[] {
  return words(clientFlags(kubeconfig));
}

function clientFlags(kubeconfig: string): Record<string, string | boolean> {
  return {
    kubeconfig,
    'authentication-kubeconfig': kubeconfig,
    'authorization-kubeconfig': kubeconfig,
    'bind-address': '127.0.0.1',
    'leader-elect': false,
  };
}
