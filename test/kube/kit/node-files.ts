/** What a node finds in /etc/culvert-node. */
import { copyFileSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ADDRESSES } from './addresses.ts';
import type { ControlPlane } from './control-plane.ts';
import { FEATURE_GATES } from './flags.ts';
import { PAUSE_IMAGE } from './images.ts';
import { multi, runcWrapper } from './multi.ts';

const INSIDE = '/etc/culvert-node';

/** Writes them into `dir`. `count`: how many nodes there are; each has routes to all others. */
export async function writeNodeFiles(
  dir: string,
  controlPlane: ControlPlane,
  index: number,
  count: number,
): Promise<void> {
  const name = `node-${index}`;
  const { pki } = controlPlane;
  for (const folder of ['cni', 'bin']) mkdirSync(join(dir, folder), { recursive: true });
  symlinkSync(await multi(), join(dir, 'bin/multi'));
  symlinkSync(await runcWrapper(), join(dir, 'bin/runc-wrapper'));
  const write = (file: string, text: string): void => writeFileSync(join(dir, file), text);
  const copy = (from: string, to: string): void => copyFileSync(from, join(dir, to));
  pki.kubeletServing(name, ADDRESSES.node(index));
  for (const kind of ['crt', 'key']) copy(pki.path(`${name}-serving.${kind}`), `serving.${kind}`);
  copy(pki.path('ca.crt'), 'ca.crt');
  const kubelet = { name: `system:node:${name}`, groups: ['system:nodes'] };
  copy(pki.kubeconfig(name, controlPlane.clusterUrl, kubelet), 'kubelet.kubeconfig');
  const proxy = { name: 'system:kube-proxy' };
  copy(pki.kubeconfig('kube-proxy', controlPlane.clusterUrl, proxy), 'kube-proxy.kubeconfig');
  copy(join(import.meta.dirname, 'node-init.sh'), 'node-init.sh');
  write('containerd.toml', CONTAINERD);
  write('kubelet.json', JSON.stringify(kubeletConfiguration()));
  write('resolv.conf', 'options timeout:1\n');
  write('cni/10-ptp.conflist', JSON.stringify(cni(ADDRESSES.podCidr(index))));
  write('gateway', ADDRESSES.controlPlane);
  write('cluster-cidr', ADDRESSES.clusterCidr);
  const others = Array.from({ length: count }, (_, at) => at + 1).filter((other) => other !== index);
  write('routes', others.map((other) => `${ADDRESSES.podCidr(other)} ${ADDRESSES.node(other)}\n`).join(''));
}

const CONTAINERD = `version = 2
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${PAUSE_IMAGE}"
  # Root has no CAP_SYS_RESOURCE in many a build environment.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "${INSIDE}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        BinaryName = "/usr/local/bin/runc-wrapper"
`;

function kubeletConfiguration(): object {
  return {
    apiVersion: 'kubelet.config.k8s.io/v1beta1',
    kind: 'KubeletConfiguration',
    cgroupDriver: 'cgroupfs',
    tlsCertFile: `${INSIDE}/serving.crt`,
    tlsPrivateKeyFile: `${INSIDE}/serving.key`,
    containerRuntimeEndpoint: 'unix:///run/containerd/containerd.sock',
    authentication: {
      anonymous: { enabled: false },
      webhook: { enabled: true },
      x509: { clientCAFile: `${INSIDE}/ca.crt` },
    },
    authorization: { mode: 'Webhook' },
    clusterDomain: 'cluster.local',
    clusterDNS: [ADDRESSES.dnsService],
    resolvConf: `${INSIDE}/resolv.conf`,
    failSwapOn: false,
    serializeImagePulls: false,
    imageGCHighThresholdPercent: 100,
    // The machine's disk and memory are others' too; a node must not evict for them.
    evictionHard: { 'memory.available': '50Mi', 'nodefs.available': '1%', 'imagefs.available': '1%' },
    nodeStatusUpdateFrequency: '5s',
    // Projected volumes follow their sources within that.
    syncFrequency: '10s',
    featureGates: FEATURE_GATES,
  };
}

/** A pair of links for each pod, no bridge: all traffic is routed, so that Services work without br_netfilter. */
function cni(subnet: string): object {
  return {
    cniVersion: '1.0.0',
    name: 'pods',
    plugins: [
      {
        type: 'ptp',
        ipMasq: false,
        ipam: { type: 'host-local', ranges: [[{ subnet }]], routes: [{ dst: '0.0.0.0/0' }] },
      },
      { type: 'portmap', capabilities: { portMappings: true } },
    ],
  };
}
