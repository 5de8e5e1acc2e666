/** The only places where the command line reaches into the daemon; each loads its part when it is called. */
import { VERSION } from '../version.ts';
import type { EntryPoints } from './io.ts';

export const entryPoints: EntryPoints = {
  async startDaemon(config) {
    const { startDaemon } = await import('../main.ts');
    await startDaemon(config);
  },
  async startCa(config) {
    const { startCa } = await import('../ca.ts');
    await startCa(config);
  },
  async preflight(config) {
    const { preflight } = await import('../capture/preflight.ts');
    return preflight(config);
  },
  async cleanupNode(options) {
    const { cleanupNode } = await import('../capture/cleanup.ts');
    return cleanupNode(options);
  },
  async connectCluster(kubeconfig) {
    const { connectKubeconfig } = await import('../kube/client.ts');
    return connectKubeconfig(kubeconfig, { userAgent: `culvert/${VERSION}` });
  },
  async readManifests(paths, stdin) {
    const { readManifests } = await import('../cluster/manifests.ts');
    return readManifests(paths, stdin);
  },
  async readObject() {
    const { deltaOf } = await import('../cluster/manifests.ts');
    return deltaOf;
  },
  async verifyPeer(chainPem, options) {
    const { verifyChain } = await import('../identity/chain.ts');
    return verifyChain(chainPem, options.rootsPem, options);
  },
};
