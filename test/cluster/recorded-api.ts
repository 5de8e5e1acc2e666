/** An API that only notes what it is asked, and answers as it is told. */
import { KubeError } from '../../daemon/kube/seams.ts';
import type { ApiRequest, ApiStream, KubeApi } from '../../daemon/kube/seams.ts';

export class RecordedApi implements KubeApi {
  readonly asked: ApiRequest[] = [];
  /** Called for each request; throws what the API refuses with. */
  answer: (request: ApiRequest) => unknown = () => ({});

  async request(request: ApiRequest): Promise<unknown> {
    this.asked.push(request);
    await Promise.resolve();
    return this.answer(request);
  }

  stream(): Promise<ApiStream> {
    return Promise.reject(new KubeError(0, 'NoAnswer', 'there is no watch here'));
  }

  /** `METHOD path` of each request since the last call, sorted. */
  take(): string[] {
    return this.asked
      .splice(0)
      .map(({ method, path }) => `${method} ${path}`)
      .sort();
  }
}

/** A fault: the API says no. */
export function refuse(status: number, reason: string): never {
  throw new KubeError(status, reason, `${status} ${reason}`);
}
