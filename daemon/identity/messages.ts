/** What an event of a certificate means to the other threads. Pure. */
import type { MainToEnrolment, MainToWorker } from '../mesh/wiring.ts';
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
