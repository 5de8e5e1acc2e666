/** The API of a command that must not stop half-way. */
import { KubeError } from '../../kube/seams.ts';
import type { KubeApi } from '../../kube/seams.ts';
import type { Io } from '../io.ts';
import { printable } from '../table.ts';

const TOO_MANY = 429;
/** Between two tries; longer where the server asks for it. */
const RETRY_MS = 2_000;

/**
 * What may have another answer soon (none, too many requests, an error of the server's own) is asked again until
 * `deadlineMs` of `io.now()`, which is said once. Until the first answer nothing is: then it is the wrong address rather.
 * Only for requests that may be made twice. @throws KubeError as the last answer was
 */
export function patientApi(io: Io, api: KubeApi, deadlineMs: number): KubeApi {
  let hasAnswered = false;
  let hasSaid = false;
  const say = ({ message }: KubeError): void => {
    const seconds = Math.ceil((deadlineMs - io.now()) / 1_000);
    const line = `culvert uninstall: the API server: ${message}; it is asked again for up to ${seconds} s`;
    if (!hasSaid) io.err(`${printable(line)}\n`);
    hasSaid = true;
  };
  return {
    async request(request) {
      for (;;) {
        try {
          const answer = await api.request(request);
          hasAnswered = true;
          return answer;
        } catch (error) {
          if (!(error instanceof KubeError) || !hasAnswered || !mayPass(error)) throw error;
          if (io.now() >= deadlineMs) throw error;
          say(error);
          await io.sleep(Math.max(RETRY_MS, error.retryAfterMs ?? 0));
        }
      }
    },
    stream: (request) => api.stream(request),
  };
}

/** Credentials that can't be had, or an answer that is too much, are the same the next time. */
function mayPass({ status, reason }: KubeError): boolean {
  if (status === 0) return !['Credentials', 'TooLarge', 'TooMany'].includes(reason);
  return status === TOO_MANY || status >= 500;
}
