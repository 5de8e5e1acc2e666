import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { KubernetesCsr } from '../../daemon/identity/sources/kubernetes-csr.ts';
import { BUNDLE_NAME } from '../../daemon/identity/sources/trust-bundle.ts';
import { KubeError } from '../../daemon/kube/seams.ts';
import type {
  ApiRequest,
  ApiStream,
  Change,
  KubeApi,
  WatchOptions,
  Watched,
} from '../../daemon/kube/seams.ts';
import { issue, makeCa } from '../support/pki.ts';
import { FakeClock, settled } from './fake-clock.ts';
import { WEB, id } from './forge.ts';

const ca = makeCa();
const other = makeCa();

interface Held {
  metadata: { name: string; resourceVersion: string };
  status: Record<string, unknown>;
}

/** Requests and their one watch each; the CA's answers are the test's. */
class RequestApi implements KubeApi {
  readonly objects = new Map<string, Held>();
  readonly posted: string[] = [];
  fault: ((request: ApiRequest) => void) | undefined;
  #watchers: ((line: string | undefined) => void)[] = [];

  get watches(): number {
    return this.#watchers.length;
  }

  async request(asked: ApiRequest): Promise<unknown> {
    await Promise.resolve();
    this.fault?.(asked);
    if (asked.method === 'POST') {
      const { metadata } = asked.body as { metadata: { name: string } };
      if (this.objects.has(metadata.name)) throw new KubeError(409, 'AlreadyExists', 'there');
      this.posted.push(metadata.name);
      this.objects.set(metadata.name, {
        metadata: { name: metadata.name, resourceVersion: '1' },
        status: {},
      });
      return {};
    }
    const found = this.objects.get(asked.path.split('/').at(-1) ?? '');
    if (found === undefined) throw new KubeError(404, 'NotFound', 'none');
    return structuredClone(found);
  }

  stream({ signal }: ApiRequest): Promise<ApiStream> {
    let push: (line: string | undefined) => void = () => undefined;
    const lines: (string | undefined)[] = [];
    let wake = Promise.withResolvers<undefined>();
    push = (line) => {
      lines.push(line);
      wake.resolve(undefined);
    };
    this.#watchers.push(push);
    signal?.addEventListener('abort', () => push(undefined));
    async function* chunks(): AsyncGenerator<Uint8Array, void, undefined> {
      for (;;) {
        const line = lines.shift();
        if (line !== undefined) yield Buffer.from(line);
        else if (lines.length > 0 || signal?.aborted === true) return;
        else {
          await wake.promise;
          wake = Promise.withResolvers();
          if (lines.length > 0 && lines[0] === undefined) return;
        }
      }
    }
    return Promise.resolve({ [Symbol.asyncIterator]: chunks, [Symbol.dispose]: () => undefined });
  }

  answer(name: string, status: Record<string, unknown>): void {
    const held = this.objects.get(name);
    assert.ok(held);
    held.status = status;
    this.say(`${JSON.stringify({ type: 'MODIFIED', object: held })}\n`);
  }
  /** undefined ends all watches. */
  say(line: string | undefined): void {
    for (const watcher of this.#watchers.splice(0)) watcher(line);
  }
}

let api: RequestApi;
let clock: FakeClock;
let csr: KubernetesCsr;
let publish: (pem: string) => void;
let problems: string[];
beforeEach(() => {
  api = new RequestApi();
  clock = new FakeClock();
  problems = [];
  const watch = <T>(options: WatchOptions<T>): Watched<T> => {
    let tell: (changes: readonly Change<T>[]) => void = () => undefined;
    publish = (pem) => {
      try {
        const value = options.decode({ metadata: {}, data: { 'ca.crt': pem } });
        if (value !== undefined) tell([{ type: 'set', key: BUNDLE_NAME, value }]);
      } catch (error) {
        options.onProblem?.(String(error));
      }
    };
    return {
      synced: Promise.resolve(),
      start: (onChanges) => (tell = onChanges),
      items: new Map(),
      stalenessMs: () => 0,
      problem: () => undefined,
      [Symbol.asyncDispose]: () => Promise.resolve(),
    };
  };
  const onProblem = (reason: string): void => void problems.push(reason);
  csr = new KubernetesCsr({ api, namespace: 'culvert-system', nodeName: 'node-a', clock, onProblem, watch });
  publish(ca.certPem);
});
afterEach(() => csr[Symbol.asyncDispose]());

const ask = (signal = new AbortController().signal): ReturnType<KubernetesCsr['issue']> => {
  const asked = csr.issue(id('web'), 86_400_000, signal);
  asked.catch(() => undefined);
  return asked;
};
const base64 = (pem: string): string => Buffer.from(pem).toString('base64');

async function watched(): Promise<string> {
  for (let i = 0; i < 200 && api.watches === 0; i++) await new Promise((resolve) => setTimeout(resolve, 5));
  const name = api.posted.at(-1);
  assert.ok(name !== undefined && api.watches > 0);
  return name;
}

describe('a request to culvert-ca', () => {
  it('gives the certificate, with the roots as they are by then', async () => {
    const asked = ask();
    const name = await watched();
    assert.match(name, /^culvert-node-a-[0-9a-f]{16}$/);
    publish(ca.certPem + other.certPem);
    const { chainPem } = issue(ca, WEB);
    api.answer(name, { certificate: base64(chainPem) });
    const issued = await asked;
    assert.equal(issued.chainPem, chainPem);
    assert.equal((issued.rootsPem.match(/BEGIN/g) ?? []).length, 2);
    assert.match(issued.keyPem, /BEGIN PRIVATE KEY/);
  });

  it('that is denied or failed says why, and the next attempt is a new one with a new key', async () => {
    for (const type of ['Denied', 'Failed']) {
      const asked = ask();
      const name = await watched();
      api.answer(name, { conditions: [{ type, reason: 'NoSuchWorkload', message: 'no pod there' }] });
      const told = {
        name: 'Refused',
        message: new RegExp(`${name} \\(${type}, NoSuchWorkload\\): no pod there`),
      };
      await assert.rejects(asked, told);
    }
    assert.equal(new Set(api.posted).size, 2);
  });

  it('that is not answered is taken up again, not made again: a CA that is away finds one of each', async () => {
    for (let i = 0; i < 3; i++) {
      const asked = ask();
      await watched();
      await clock.advance(46_000);
      await assert.rejects(
        asked,
        /no answer to request culvert-node-a-\w+ yet .*is Deployment culvert-ca running\? `culvert ca status` says what is wrong/,
      );
      api.say(undefined);
    }
    assert.equal(api.posted.length, 1);
    const asked = ask();
    api.answer(await watched(), { certificate: base64(issue(ca, WEB).chainPem) });
    assert.match((await asked).chainPem, /BEGIN CERTIFICATE/);
  });

  it('outlives a watch that ends or breaks, and an API that is away', async () => {
    const asked = ask();
    const name = await watched();
    api.say(undefined);
    await clock.advance(1_000);
    await watched();
    let failures = 0;
    api.fault = () => {
      if (failures++ < 3) throw new KubeError(0, 'ECONNREFUSED', 'away');
    };
    api.say('nonsense\n');
    for (let i = 0; i < 5; i++) await clock.advance(1_000);
    await watched();
    api.answer(name, { certificate: base64(issue(ca, WEB).chainPem) });
    await asked;
    assert.equal(api.posted.length, 1);
  });

  it('that may have been made without our hearing of it is found by its name', async () => {
    api.fault = (request) => {
      if (request.method !== 'POST') return;
      api.fault = undefined;
      const { metadata } = request.body as { metadata: { name: string } };
      api.posted.push(metadata.name);
      api.objects.set(metadata.name, { metadata: { name: metadata.name, resourceVersion: '1' }, status: {} });
      throw new KubeError(0, 'Timeout', 'no answer');
    };
    await assert.rejects(ask(), /could not be asked for/);
    const asked = ask();
    api.answer(await watched(), { certificate: base64(issue(ca, WEB).chainPem) });
    await asked;
    assert.equal(api.posted.length, 1);
  });

  it('that the API does not take is refused; one that it did not answer is not', async () => {
    for (const [status, name] of [
      [403, 'Refused'],
      [422, 'Refused'],
      [429, 'Error'],
      [500, 'Error'],
      [0, 'Error'],
    ] as const) {
      api.fault = () => {
        throw new KubeError(status, 'Reason', 'because');
      };
      await assert.rejects(ask(), { name, message: /could not be asked for: .*because/ }, String(status));
    }
    assert.equal(api.posted.length, 0);
  });

  it('that was taken away is refused; one that is only not answered yet is not', async () => {
    const gone = ask();
    api.objects.delete(await watched());
    api.say(undefined);
    await clock.advance(2_000);
    await assert.rejects(gone, { name: 'Refused', message: /is gone/ });
    const late = ask();
    await watched();
    await clock.advance(46_000);
    await assert.rejects(late, { name: 'Error', message: /no answer/ });
  });

  it('ends when it is not needed any more', async () => {
    const ending = new AbortController();
    const asked = ask(ending.signal);
    await watched();
    ending.abort();
    await assert.rejects(asked, /no answer/);
  });

  it('waits for the first trust bundle, and keeps the last good one', async () => {
    await csr[Symbol.asyncDispose]();
    publish('nonsense');
    await settled();
    assert.match(problems.join(), /trust bundle can not be used/);
    assert.equal((await csr.roots()).match(/BEGIN/g)?.length, 1);
  });
});
