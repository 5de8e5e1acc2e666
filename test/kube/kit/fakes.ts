/** Objects that a test wants to be there, without whatever would make them in a whole cluster. */
import type { ControlPlane } from './control-plane.ts';

/** A namespace, labelled, with its service account `default`. Nothing happens when they are there. */
export async function namespace(
  { api }: ControlPlane,
  name: string,
  labels: Readonly<Record<string, string>> = {},
): Promise<void> {
  const body = { apiVersion: 'v1', kind: 'Namespace', metadata: { name, labels } };
  await create(api, '/api/v1/namespaces', body);
  await serviceAccount({ api }, name);
}

/** A service account; default `default`. Nothing happens when it is there. */
export async function serviceAccount(
  { api }: Pick<ControlPlane, 'api'>,
  inNamespace: string,
  name = 'default',
): Promise<void> {
  const body = { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name } };
  await create(api, `/api/v1/namespaces/${inNamespace}/serviceaccounts`, body);
}

/**
 * Ready nodes without a kubelet, `fake-1` … `fake-COUNT`, for load: whatever is bound to one stays as it is written.
 * Their os label is `none`, so that no DaemonSet of ours comes. The node controller, where it runs, calls them gone
 * after 20 s: pods on them need a toleration to stay.
 */
export async function fakeNodes({ api }: ControlPlane, count: number): Promise<string[]> {
  const names = Array.from({ length: count }, (_, at) => `fake-${at + 1}`);
  await Promise.all(
    names.map(async (name, at) => {
      const podCIDR = `10.${128 + (at >> 8)}.${at & 0xff}.0/24`;
      const labels = { 'kubernetes.io/os': 'none', 'kubernetes.io/hostname': name };
      const spec = { podCIDR, podCIDRs: [podCIDR] };
      await create(api, '/api/v1/nodes', {
        apiVersion: 'v1',
        kind: 'Node',
        metadata: { name, labels },
        spec,
      });
      const status = { conditions: [{ type: 'Ready', status: 'True', reason: 'Fake' }] };
      const contentType = 'application/merge-patch+json';
      await api.must('PATCH', `/api/v1/nodes/${name}/status`, { body: { status }, contentType });
    }),
  );
  return names;
}

async function create(api: ControlPlane['api'], path: string, body: unknown): Promise<void> {
  const answer = await api.ask('POST', path, { body });
  if (answer.status !== 201 && answer.status !== 409)
    throw new Error(`POST ${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
}
