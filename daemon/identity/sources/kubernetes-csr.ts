/** The cluster CA as a daemon sees it: a CertificateSigningRequest for `culvert.dev/workload`, which `culvert-ca` answers. */
import { z } from 'zod';
import { MIN_EXPIRATION_S } from '../signer/decide.ts';
import { REQUESTS_PATH, SIGNER_NAME, USAGES } from '../signer/request.ts';
import { excerpt } from '../text.ts';
import { AskedCertificates } from './asked.ts';
import type { Answer, AskedKind, AskedOptions, Wanted } from './asked.ts';

/** One request for each certificate, approved and signed by culvert-ca. */
export class KubernetesCsr extends AskedCertificates {
  constructor(options: AskedOptions) {
    super('kubernetes-csr', options, KIND);
  }
}

const KIND: AskedKind = {
  path: REQUESTS_PATH,
  command: (name) => `kubectl get csr ${name}`,
  body: bodyOf,
  answerIn,
};

function bodyOf({ name, labels, request, lifetimeMs }: Wanted): unknown {
  return {
    apiVersion: 'certificates.k8s.io/v1',
    kind: 'CertificateSigningRequest',
    metadata: { name, labels },
    spec: {
      request,
      signerName: SIGNER_NAME,
      usages: USAGES,
      expirationSeconds: Math.max(MIN_EXPIRATION_S, Math.ceil(lifetimeMs / 1_000)),
    },
  };
}

const objectSchema = z.object({
  metadata: z.object({ name: z.string() }),
  status: z
    .object({
      certificate: z.string().nullish(),
      conditions: z
        .array(z.object({ type: z.string(), reason: z.string().nullish(), message: z.string().nullish() }))
        .nullish(),
    })
    .nullish(),
});

function answerIn(object: unknown): Answer | undefined {
  const parsed = objectSchema.safeParse(object);
  if (!parsed.success) return undefined;
  const { metadata, status } = parsed.data;
  const no = status?.conditions?.find(({ type }) => type === 'Denied' || type === 'Failed');
  if (no !== undefined)
    return {
      refusal: `culvert-ca refused request ${metadata.name} (${no.type}, ${no.reason ?? 'no reason'}): ${excerpt(no.message ?? '')}`,
    };
  const { certificate } = status ?? {};
  return certificate
    ? { chainPem: Buffer.from(certificate, 'base64').toString('latin1') }
    : { pending: undefined };
}
