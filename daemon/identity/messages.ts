/** What certificates and the other threads say to each other. */
import type { EnrolmentToMain, MainToEnrolment, MainToWorker } from '../mesh/wiring.ts';
import type { Certificates } from './certificates.ts';
import type { CertificateEvent } from './events.ts';

export interface CertificateMessages {
  readonly toWorkers?: MainToWorker;
  readonly toEnrolment?: MainToEnrolment;
}

export function messagesOf(event: CertificateEvent): CertificateMessages {
  switch (event.type) {
    case 'certificate': {
      const { certificate } = event;
      return {
        toWorkers: { type: 'certificate', certificate },
        toEnrolment: { type: 'identity-ready', id: certificate.id, notAfterMs: certificate.notAfterMs },
      };
    }
    case 'failed':
      return {
        toWorkers: { type: 'certificate-failed', id: event.id, reason: event.reason },
        toEnrolment: { type: 'identity-failed', id: event.id, reason: event.reason },
      };
    case 'released':
      return { toWorkers: { type: 'certificate-released', id: event.id } };
    case 'expired':
      return {};
  }
}

/** Takes enrolment's wish; the answer when there is a certificate already. */
export function wantIdentity(
  certificates: Pick<Certificates, 'want' | 'get'>,
  wish: EnrolmentToMain & { type: 'want-identity' },
): MainToEnrolment | undefined {
  certificates.want(wish.id, wish.urgent);
  const known = certificates.get(wish.id);
  return known && { type: 'identity-ready', id: known.id, notAfterMs: known.notAfterMs };
}
