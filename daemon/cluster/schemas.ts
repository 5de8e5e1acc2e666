/**
 * The fields of Kubernetes objects that we read, checked (field names and defaults: kubernetes/api core/v1 and
 * discovery/v1). Other fields are left out unread. Every list and every text has a bound, above what an API server
 * takes. `null` counts as absent, as in kubectl.
 */
import { z } from 'zod';

/** DNS-1123 subdomain: what all names of the kinds below must be, and what a SPIFFE ID can carry. */
const name = z
  .string()
  .max(253)
  .regex(/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/, 'must be a lower-case DNS name');
const label = z.string().max(63);
const word = z.string().max(253);
/** Longest IPv6 text, and more. */
const address = z.string().max(64);
const port = z.int().min(1).max(65_535);
const list = <T extends z.ZodType>(item: T, max: number) => z.array(item).max(max).nullish();
const table = <T extends z.ZodType>(value: T, max: number) =>
  z
    .record(z.string().max(317), value)
    .refine((entries) => Object.keys(entries).length <= max, `more than ${max} entries`)
    .nullish();

const metadata = z.object({
  name,
  namespace: name.nullish(),
  uid: z.string().max(64).nullish(),
  labels: table(label, 256),
  /** One annotation may hold 256 KiB in all of an object's. */
  annotations: table(z.string().max(262_144), 1_024),
  creationTimestamp: z.string().max(64).nullish(),
  deletionTimestamp: z.string().max(64).nullish(),
  ownerReferences: list(z.object({ kind: word, name: word, controller: z.boolean().nullish() }), 256),
});

/** Enough of an object to say which it is. */
export const headSchema = z.object({
  apiVersion: z.string().max(317),
  kind: z.string().min(1).max(63),
});

/** Enough of a broken object to know which it was. */
export const identitySchema = z.object({
  metadata: z.object({ name: word, namespace: word.nullish(), uid: z.string().max(64).nullish() }),
});

export const listSchema = z.object({ items: z.array(z.unknown()).nullish() });

export const namespaceSchema = z.object({ metadata });
export const serviceAccountSchema = z.object({ metadata });

export const nodeSchema = z.object({
  metadata,
  spec: z.object({ podCIDR: address.nullish(), podCIDRs: list(address, 16) }).nullish(),
  status: z
    .object({
      addresses: list(z.object({ type: word, address: word }), 64),
      // 0, as API servers write it, while no kubelet has come.
      daemonEndpoints: z
        .object({ kubeletEndpoint: z.object({ Port: z.int().min(0).max(65_535).nullish() }).nullish() })
        .nullish(),
    })
    .nullish(),
});

const container = z.object({
  name: word,
  ports: list(z.object({ containerPort: port, protocol: z.string().max(8).nullish() }), 1_024),
});

export const podSchema = z.object({
  metadata: metadata.extend({
    uid: z.string().regex(/^[A-Za-z0-9-]{1,64}$/, 'must be a pod UID'),
  }),
  spec: z.object({
    nodeName: word.nullish(),
    serviceAccountName: z.union([z.literal(''), name]).nullish(),
    hostNetwork: z.boolean().nullish(),
    runtimeClassName: word.nullish(),
    os: z.object({ name: z.enum(['linux', 'windows']) }).nullish(),
    nodeSelector: table(label, 256),
    containers: list(container, 512),
    initContainers: list(container, 512),
    ephemeralContainers: list(container, 512),
  }),
  status: z
    .object({
      phase: z.enum(['Pending', 'Running', 'Succeeded', 'Failed', 'Unknown']).nullish(),
      podIP: address.nullish(),
      podIPs: list(z.object({ ip: address }), 16),
      conditions: list(z.object({ type: word, status: word }), 256),
    })
    .nullish(),
});

export const serviceSchema = z.object({
  metadata,
  spec: z.object({
    type: z.enum(['ClusterIP', 'NodePort', 'LoadBalancer', 'ExternalName']).nullish(),
    clusterIP: address.nullish(),
    clusterIPs: list(address, 4),
    externalIPs: list(address, 256),
    selector: table(label, 256),
    ports: list(
      z.object({
        name: label.nullish(),
        protocol: z.string().max(8).nullish(),
        port,
        nodePort: z.int().min(0).max(65_535).nullish(),
      }),
      1_024,
    ),
    sessionAffinity: z.enum(['None', 'ClientIP']).nullish(),
    sessionAffinityConfig: z
      .object({ clientIP: z.object({ timeoutSeconds: z.int().min(1).max(86_400).nullish() }).nullish() })
      .nullish(),
    internalTrafficPolicy: z.enum(['Cluster', 'Local']).nullish(),
    trafficDistribution: word.nullish(),
    publishNotReadyAddresses: z.boolean().nullish(),
  }),
  status: z
    .object({
      loadBalancer: z.object({ ingress: list(z.object({ ip: address.nullish() }), 256) }).nullish(),
    })
    .nullish(),
});

export const sliceSchema = z.object({
  metadata,
  addressType: z.enum(['IPv4', 'IPv6', 'FQDN']),
  endpoints: list(
    z.object({
      addresses: z.array(word).min(1).max(100),
      conditions: z
        .object({
          ready: z.boolean().nullish(),
          serving: z.boolean().nullish(),
          terminating: z.boolean().nullish(),
        })
        .nullish(),
      targetRef: z.object({ kind: word.nullish(), uid: z.string().max(64).nullish() }).nullish(),
      nodeName: word.nullish(),
      zone: word.nullish(),
    }),
    1_000,
  ),
  ports: list(
    z.object({ name: label.nullish(), protocol: z.string().max(8).nullish(), port: port.nullish() }),
    1_000,
  ),
});

/** Which policy it is; what it says is read elsewhere (mesh/policy), and closes where it is wrong. */
export const policyHeadSchema = z.looseObject({
  metadata: z.looseObject({ name, namespace: name.nullish() }),
});

/** `status/<node>.yaml`, which a node's daemon writes: see published.ts. */
export const statusSchema = z.object({
  node: name,
  pods: list(
    z.object({
      uid: z.string().regex(/^[A-Za-z0-9-]{1,64}$/, 'must be a pod UID'),
      state: z.enum(['joining', 'enrolled', 'leaving', 'unenrollable']),
      since: z.iso.datetime(),
    }),
    10_000,
  ),
});
