/** CertificateSigningRequest objects (certificates.k8s.io/v1) as the signer reads and answers them. Pure. */
import { createHash, createPublicKey } from 'node:crypto';
import { AsnConvert } from '@peculiar/asn1-schema';
import { CertificationRequest } from '@peculiar/asn1-csr';
import { z } from 'zod';

export const SIGNER_NAME = 'culvert.dev/workload';
export const REQUESTS_PATH = '/apis/certificates.k8s.io/v1/certificatesigningrequests';
/** Exactly what is asked for and given; in any order. */
export const USAGES = ['client auth', 'digital signature', 'server auth'] as const;

const EXTRA = 'authentication.kubernetes.io/';
const MAX_REQUEST_BYTES = 16_384;
const PEM = /^\s*-----BEGIN CERTIFICATE REQUEST-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE REQUEST-----\s*$/;

const word = z.string().max(1_024);
const condition = z.looseObject({ type: word, status: word, reason: z.string().nullish() });

const schema = z.object({
  metadata: z.object({
    name: word,
    uid: word,
    resourceVersion: word.nullish(),
    creationTimestamp: z.string().max(64).nullish(),
  }),
  spec: z.object({
    /** base64 of PEM. */
    request: z.string(),
    signerName: word,
    usages: z.array(word).max(64).nullish(),
    expirationSeconds: z.int().nullish(),
    username: word.nullish(),
    extra: z.record(z.string(), z.array(z.string())).nullish(),
  }),
  status: z
    .object({ conditions: z.array(condition).max(64).nullish(), certificate: z.string().nullish() })
    .nullish(),
});

/** What the API server itself says of the requester; each value only where there is exactly one. */
export interface Requester {
  readonly username: string;
  readonly podName: string | undefined;
  readonly podUid: string | undefined;
  readonly nodeName: string | undefined;
}

/** pending → approved → issued, or one of the others; the last three are final. */
export type Phase = 'pending' | 'approved' | 'issued' | 'denied' | 'failed';

/** One request object, whole. */
export interface SigningRequest {
  readonly name: string;
  readonly uid: string;
  readonly createdMs: number;
  readonly signerName: string;
  readonly phase: Phase;
  readonly requester: Requester;
  readonly usages: readonly string[];
  readonly expirationSeconds: number | undefined;
  /** DER of the PKCS #10 request; undefined when it is no PEM request of a sane size. */
  readonly der: Uint8Array | undefined;
  /** SHA-256 (hex) of its public key; undefined when it has none that can be read. */
  readonly keyHash: string | undefined;
}

/** What is kept of every request of our signer while only watching. */
export type RequestSummary = Pick<SigningRequest, 'name' | 'uid' | 'createdMs' | 'phase' | 'keyHash'> & {
  readonly username: string;
  /** Whose turn it is when many wait: the pod, or else the user. */
  readonly source: string;
};

/** The request in an API object, or undefined when it is no CertificateSigningRequest. Never throws. */
export function readRequest(object: unknown): SigningRequest | undefined {
  const parsed = schema.safeParse(object);
  if (!parsed.success) return undefined;
  const { metadata, spec, status } = parsed.data;
  const der = derOf(spec.request);
  return {
    name: metadata.name,
    uid: metadata.uid,
    createdMs: Date.parse(metadata.creationTimestamp ?? ''),
    signerName: spec.signerName,
    phase: phaseOf(status?.certificate ?? '', status?.conditions ?? []),
    requester: {
      username: spec.username ?? '',
      podName: oneOf(spec.extra, 'pod-name'),
      podUid: oneOf(spec.extra, 'pod-uid'),
      nodeName: oneOf(spec.extra, 'node-name'),
    },
    usages: spec.usages ?? [],
    expirationSeconds: spec.expirationSeconds ?? undefined,
    der,
    keyHash: der === undefined ? undefined : keyHashOf(der),
  };
}

/** The part of a request that is kept. */
export function summaryOf(request: SigningRequest): RequestSummary {
  const { name, uid, createdMs, phase, keyHash, requester } = request;
  const { username, podUid } = requester;
  return { name, uid, createdMs, phase, keyHash, username, source: podUid ?? username };
}

function phaseOf(certificate: string, conditions: readonly z.infer<typeof condition>[]): Phase {
  const has = (type: string): boolean => conditions.some((one) => one.type === type);
  if (has('Failed')) return 'failed';
  if (has('Denied')) return 'denied';
  if (certificate !== '') return 'issued';
  return has('Approved') ? 'approved' : 'pending';
}

/** What the API server says of the requester under `key`, where that is one value. */
export function oneOf(
  extra: Readonly<Record<string, readonly string[]>> | null | undefined,
  key: 'pod-name' | 'pod-uid' | 'node-name',
): string | undefined {
  const values = extra?.[EXTRA + key] ?? [];
  return values.length === 1 ? values[0] : undefined;
}

/** The request in base64 of PEM; undefined when it is not exactly one, of a sane size. */
export function derOf(base64: string): Uint8Array | undefined {
  if (base64.length > 2 * MAX_REQUEST_BYTES) return undefined;
  const body = PEM.exec(Buffer.from(base64, 'base64').toString('latin1'))?.[1];
  if (body === undefined) return undefined;
  const der = Buffer.from(body, 'base64');
  // Node skips what is no base64; others stop there, and would read another request.
  return der.toString('base64') === body.replace(/\s/g, '') ? der : undefined;
}

/** SHA-256 (hex) of the request's key as OpenSSL writes it, so that one key has one hash however its request was encoded. */
export function keyHashOf(der: Uint8Array): string | undefined {
  try {
    const { subjectPKInfo } = AsnConvert.parse(der, CertificationRequest).certificationRequestInfo;
    const raw = Buffer.from(AsnConvert.serialize(subjectPKInfo));
    const key = createPublicKey({ key: raw, format: 'der', type: 'spki' });
    const spki = key.export({ type: 'spki', format: 'der' });
    return createHash('sha256').update(spki).digest('hex');
  } catch {
    return undefined;
  }
}
