/** A cluster's addresses. They mean something inside its own namespaces only: clusters can share them. */
export const ADDRESSES = {
  /** Of the bridge that joins the nodes; the API server listens there too. */
  controlPlane: '10.77.0.1',
  node: (index: number) => `10.77.0.${10 + index}`,
  podCidr: (index: number) => `10.244.${index}.0/24`,
  clusterCidr: '10.244.0.0/16',
  serviceCidr: '10.96.0.0/16',
  /** `kubernetes.default`. */
  apiService: '10.96.0.1',
  /** `kube-dns`, which has no pods: names fail at once. */
  dnsService: '10.96.0.10',
} as const;

export const API_PORT = 6443;
