/** Pods and Services as tests and the story want them. */
import { APPS_IMAGE } from './images.ts';

export interface PodOptions {
  readonly name: string;
  readonly namespace: string;
  /** Where the scheduler has to put it. */
  readonly node?: string;
  /** Default: waits, for others to be run in it. */
  readonly command?: readonly string[];
  readonly image?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly serviceAccount?: string;
  readonly hostPID?: boolean;
  /** Mounted at the same path. */
  readonly hostPaths?: readonly string[];
  /** Default Always. */
  readonly restartPolicy?: 'Always' | 'OnFailure' | 'Never';
}

/** A pod with one container `app`, labelled `app: <name>`, ended without a wait. */
export function pod(options: PodOptions): object {
  const volumes = (options.hostPaths ?? []).map((path, at) => ({ name: `host-${at}`, path }));
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name: options.name,
      namespace: options.namespace,
      labels: { app: options.name, ...options.labels },
    },
    spec: {
      ...(options.node === undefined ? {} : { nodeSelector: { 'kubernetes.io/hostname': options.node } }),
      ...(options.hostPID === true ? { hostPID: true } : {}),
      serviceAccountName: options.serviceAccount ?? 'default',
      restartPolicy: options.restartPolicy ?? 'Always',
      // The programs are pid 1 and have no handler for SIGTERM: nothing to wait for.
      terminationGracePeriodSeconds: 0,
      volumes: volumes.map(({ name, path }) => ({ name, hostPath: { path } })),
      containers: [
        {
          name: 'app',
          image: options.image ?? APPS_IMAGE,
          imagePullPolicy: 'Never',
          command: options.command ?? ['/labapp', 'pause'],
          volumeMounts: volumes.map(({ name, path }) => ({ name, mountPath: path })),
        },
      ],
    },
  };
}

export interface ServiceOptions {
  readonly name: string;
  readonly namespace: string;
  /** The value of their label `app`. */
  readonly pods: string;
  readonly port: number;
  readonly targetPort: number;
}

export function service({ name, namespace, pods, port, targetPort }: ServiceOptions): object {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name, namespace },
    spec: { selector: { app: pods }, ports: [{ name: 'http', port, targetPort }] },
  };
}
