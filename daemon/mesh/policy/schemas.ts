/** The shape of the policy objects (security.istio.io v1, v1beta1): unknown fields are errors, a newer one may matter. */
import { z } from 'zod';

const value = z.string().min(1, 'must not be empty');
const values = z.array(value).nullish();

export const sourceSchema = z.strictObject({
  principals: values,
  notPrincipals: values,
  requestPrincipals: values,
  notRequestPrincipals: values,
  namespaces: values,
  notNamespaces: values,
  serviceAccounts: values,
  notServiceAccounts: values,
  ipBlocks: values,
  notIpBlocks: values,
  remoteIpBlocks: values,
  notRemoteIpBlocks: values,
  trustDomains: values,
  notTrustDomains: values,
});

export const operationSchema = z.strictObject({
  hosts: values,
  notHosts: values,
  ports: values,
  notPorts: values,
  methods: values,
  notMethods: values,
  paths: values,
  notPaths: values,
});

export const conditionSchema = z.strictObject({ key: value, values, notValues: values });

const MAX_ENTRIES = 512;

export const ruleSchema = z.strictObject({
  from: z
    .array(z.strictObject({ source: sourceSchema.nullish() }))
    .max(MAX_ENTRIES)
    .nullish(),
  to: z
    .array(z.strictObject({ operation: operationSchema.nullish() }))
    .max(MAX_ENTRIES)
    .nullish(),
  when: z.array(conditionSchema).max(MAX_ENTRIES).nullish(),
});

const labels = z.record(z.string(), z.string().max(63)).nullish();
export const selectorSchema = z.strictObject({ matchLabels: labels });

export const metadataSchema = z.looseObject({
  name: value,
  namespace: z.string().nullish(),
  annotations: z.record(z.string(), z.string()).nullish(),
  creationTimestamp: z.string().nullish(),
});

export const MAX_RULES = 512;
export const MAX_TARGET_REFS = 16;

/** Everything but the rules, which are read one by one. */
export const policySpecSchema = z.strictObject({
  selector: selectorSchema.nullish(),
  targetRef: z.unknown().optional(),
  targetRefs: z.array(z.unknown()).max(MAX_TARGET_REFS).nullish(),
  action: z.enum(['ALLOW', 'DENY', 'AUDIT', 'CUSTOM']).nullish(),
  provider: z.strictObject({ name: z.string().nullish() }).nullish(),
  rules: z.array(z.unknown()).max(MAX_RULES).nullish(),
});

const mode = z.enum(['UNSET', 'DISABLE', 'PERMISSIVE', 'STRICT']).nullish();
const mtls = z.strictObject({ mode }).nullish();

export const peerAuthenticationSpecSchema = z.strictObject({
  selector: selectorSchema.nullish(),
  mtls,
  portLevelMtls: z.record(z.string(), mtls).nullish(),
});

export type Selector = z.infer<typeof selectorSchema>;
export type Source = z.infer<typeof sourceSchema>;
export type Operation = z.infer<typeof operationSchema>;
export type Condition = z.infer<typeof conditionSchema>;
export type Rule = z.infer<typeof ruleSchema>;
