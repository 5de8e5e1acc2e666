/**
 * An issuer of cert-manager as a daemon sees it: a CertificateRequest in our own namespace, which `culvert-ca` approves
 * and cert-manager signs. Never a Certificate: its key would be in a Secret. The roots come from culvert-ca, which reads
 * them where config `certIssuerBundle` says; `status.ca` is what an issuer happened to give, and is not looked at.
 */
import { z } from 'zod';
import type { IssuerRef } from '../issuer-ref.ts';
import { GROUP } from '../signer/certificate-request.ts';
import { USAGES } from '../signer/request.ts';
import { excerpt } from '../text.ts';
import { AskedCertificates } from './asked.ts';
import type { Answer, AskedKind, AskedOptions, Wanted } from './asked.ts';

export interface CertManagerOptions extends AskedOptions {
  readonly issuer: IssuerRef;
  /** Of the daemon's own pod, whose requests go when it goes; '' where there is none. */
  readonly podName: string;
  readonly podUid: string;
}

/** One request for each certificate, approved by culvert-ca and signed by cert-manager. */
export class CertManager extends AskedCertificates {
  constructor(options: CertManagerOptions) {
    super('cert-manager', options, kindOf(options));
  }
}

function kindOf(options: CertManagerOptions): AskedKind {
  const { namespace } = options;
  return {
    path: `/apis/${GROUP}/v1/namespaces/${namespace}/certificaterequests`,
    command: (name) => `kubectl -n ${namespace} describe certificaterequest ${name}`,
    body: (wanted) => bodyOf(wanted, options),
    answerIn,
  };
}

function bodyOf(
  { name, labels, request, lifetimeMs }: Wanted,
  { issuer, podName, podUid }: CertManagerOptions,
): unknown {
  const owner = { apiVersion: 'v1', kind: 'Pod', name: podName, uid: podUid };
  return {
    apiVersion: `${GROUP}/v1`,
    kind: 'CertificateRequest',
    // A daemon may delete nothing: culvert-ca takes answered ones away, and what is left goes with the pod.
    metadata: { name, labels, ownerReferences: podName === '' || podUid === '' ? [] : [owner] },
    spec: {
      issuerRef: { ...issuer, group: GROUP },
      request,
      usages: USAGES,
      duration: `${Math.ceil(lifetimeMs / 1_000)}s`,
      isCA: false,
    },
  };
}

const conditionSchema = z.object({
  type: z.string(),
  status: z.string(),
  reason: z.string().nullish(),
  message: z.string().nullish(),
});
const objectSchema = z.object({
  metadata: z.object({ name: z.string() }),
  status: z
    .object({ certificate: z.string().nullish(), conditions: z.array(conditionSchema).nullish() })
    .nullish(),
});
type Condition = z.infer<typeof conditionSchema>;

function answerIn(object: unknown): Answer | undefined {
  const parsed = objectSchema.safeParse(object);
  if (!parsed.success) return undefined;
  const { metadata, status } = parsed.data;
  const conditions = status?.conditions ?? [];
  const isTrue = (type: string): Condition | undefined =>
    conditions.find((one) => one.type === type && one.status === 'True');
  const ready = conditions.find((one) => one.type === 'Ready');
  const denied = isTrue('Denied');
  if (denied !== undefined) return refusal('whoever approves', metadata.name, denied);
  const invalid = isTrue('InvalidRequest');
  if (invalid !== undefined) return refusal('cert-manager', metadata.name, invalid);
  if (ready?.status === 'False' && (ready.reason === 'Failed' || ready.reason === 'Denied'))
    return refusal('the issuer', metadata.name, ready);
  const { certificate } = status ?? {};
  if (ready?.status === 'True' && certificate)
    return { chainPem: Buffer.from(certificate, 'base64').toString('latin1') };
  return { pending: whyPending(isTrue('Approved') !== undefined, ready) };
}

function refusal(who: string, name: string, { type, reason, message }: Condition): Answer {
  return {
    refusal: `${who} refused request ${name} (${type}, ${reason ?? 'no reason'}): ${excerpt(message ?? '')}`,
  };
}

/** Who is to act next. */
function whyPending(isApproved: boolean, ready: Condition | undefined): string | undefined {
  if (!isApproved) return undefined;
  return ready === undefined
    ? 'it is approved, and the issuer has said nothing: is cert-manager running?'
    : `it is approved, and the issuer says: ${excerpt(ready.message ?? ready.reason ?? '')}`;
}
