import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { TestContext } from 'node:test';
import { KubeClient } from '../../daemon/kube/client.ts';
import { Reflector } from '../../daemon/kube/reflector.ts';
import type { ReflectorTuning } from '../../daemon/kube/reflector.ts';
import type { Change, WatchOptions } from '../../daemon/kube/seams.ts';
import { until } from '../support/wait.ts';
import type { Fault } from './server.ts';
import { FakeServer, PATH, errorEvent, isList, isWatch, json, refuse } from './server.ts';

/** Quick retries, and no chance in them. */
const QUICK: Partial<ReflectorTuning> = {
  firstRetryMs: 5,
  lastRetryMs: 20,
  relistSpreadMs: 10,
  random: () => 0.5,
};

interface Watching {
  readonly server: FakeServer;
  readonly reflector: Reflector<string>;
  /** `+name=value` and `-name`, as told. */
  readonly told: string[];
  readonly problems: string[];
}

/** A reflector on a server that has `objects`; not started. */
async function make(
  t: TestContext,
  objects: Readonly<Record<string, string>> = {},
  tuning: Partial<ReflectorTuning> = {},
  more: Partial<WatchOptions<string>> = {},
): Promise<Watching> {
  const server = await FakeServer.start();
  for (const [name, value] of Object.entries(objects)) server.put(name, value);
  const client = new KubeClient(server.access(), { userAgent: 'test' });
  const problems: string[] = [];
  const reflector = new Reflector<string>(
    {
      api: client,
      path: PATH,
      decode: (object) => String(Reflect.get(Object(object), 'value')),
      onProblem: (reason) => problems.push(reason),
      ...more,
    },
    { ...QUICK, ...tuning },
  );
  t.after(async () => {
    await reflector[Symbol.asyncDispose]();
    client[Symbol.dispose]();
    await server[Symbol.asyncDispose]();
  });
  return { server, reflector, told: [], problems };
}

/** Starts it and waits for the first list and the watch. */
async function started(watching: Watching): Promise<Watching> {
  const { server, reflector, told } = watching;
  reflector.start((changes) => told.push(...changes.map(word)));
  await reflector.synced;
  await server.when(() => server.watches.size === 1);
  return watching;
}

function word(change: Change<string>): string {
  const name = change.key.replace('shop/', '');
  return change.type === 'set' ? `+${name}=${change.value}` : `-${name}`;
}

const has = (told: readonly string[], text: string): Promise<true> =>
  until(text, () => (told.includes(text) ? true : undefined));

describe('a reflector', () => {
  it('lists in pages, then tells what changes', async (t) => {
    const { server, reflector, told } = await started(
      await make(t, { a: '1', b: '2', c: '3', d: '4', e: '5' }, { pageSize: 2 }),
    );
    assert.deepEqual(told, ['+a=1', '+b=2', '+c=3', '+d=4', '+e=5']);
    assert.deepEqual(server.pages(), [0, 2, 4]);
    server.put('a', '9');
    server.remove('b');
    server.put('f', '6');
    await has(told, '+f=6');
    assert.deepEqual(told.slice(5), ['+a=9', '-b', '+f=6']);
    assert.deepEqual(
      [...reflector.items].map(([key, value]) => `${key}=${value}`),
      ['shop/a=9', 'shop/c=3', 'shop/d=4', 'shop/e=5', 'shop/f=6'],
    );
  });

  it('asks for bookmarks and for an end in 5 to 10 minutes, and resumes at the newest version it has heard of', async (t) => {
    const { server } = await started(await make(t, { a: '1' }));
    const [watch] = server.watchRequests();
    assert.equal(watch?.searchParams.get('allowWatchBookmarks'), 'true');
    assert.equal(watch.searchParams.get('timeoutSeconds'), '450');
    server.bookmark();
    const bookmarked = String(server.version);
    server.endWatches();
    await server.when(() => server.watchRequests().length === 2);
    assert.equal(server.watchRequests()[1]?.searchParams.get('resourceVersion'), bookmarked);
    assert.equal(server.lists().length, 1, 'no relist');
  });

  it('tells nothing of a change that changes nothing of what is kept', async (t) => {
    const { server, told } = await started(await make(t, { a: '1' }));
    server.put('a', '1');
    server.put('b', '2');
    await has(told, '+b=2');
    assert.deepEqual(told, ['+a=1', '+b=2']);
  });

  it('keeps nothing of what decode does not want', async (t) => {
    const decode = (object: unknown): string | undefined => {
      const value = String(Reflect.get(Object(object), 'value'));
      return value === 'unwanted' ? undefined : value;
    };
    const { server, told, reflector } = await started(
      await make(t, { a: 'unwanted', b: '2' }, {}, { decode }),
    );
    server.put('b', 'unwanted');
    await has(told, '-b');
    assert.equal(reflector.items.size, 0);
  });

  it('relists after 410 Gone and tells only the differences', async (t) => {
    const { server, told } = await started(await make(t, { a: '1', b: '2', c: '3' }));
    const before = told.length;
    server.once(isWatch, refuse(410, 'Expired'));
    server.endWatches();
    await server.when(() => server.watches.size === 0);
    // What happens while nobody looks.
    server.put('b', '9');
    server.remove('c');
    server.put('d', '4');
    server.oldest = server.version;
    await has(told, '-c');
    assert.deepEqual([...told.slice(before)].sort(), ['+b=9', '+d=4', '-c']);
    await server.when(() => server.watches.size === 1);
    assert.equal(server.lists().length, 2);
  });

  it('relists after an ERROR event that says Gone, as real servers do', async (t) => {
    const { server, told } = await started(await make(t, { a: '1' }));
    server.oldest = server.version + 10;
    server.version += 20;
    server.endWatches();
    await server.when(() => server.lists().length === 2 && server.watches.size === 1);
    assert.deepEqual(told, ['+a=1']);
  });

  it('starts a list anew when its next page is Gone, without a flap', async (t) => {
    const watching = await make(t, { a: '1', b: '2', c: '3' }, { pageSize: 2 });
    watching.server.once((url) => isList(url) && url.searchParams.has('continue'), refuse(410, 'Expired'));
    const { told } = await started(watching);
    assert.deepEqual(told, ['+a=1', '+b=2', '+c=3']);
  });

  it('asks for smaller pages when one is too large', async (t) => {
    const watching = await make(t, { a: '1', b: '2', c: '3', d: '4' }, { pageSize: 4 });
    watching.server.once(isList, (_, response) =>
      json(response, 200, {
        metadata: { resourceVersion: '1' },
        items: [{ filler: 'x'.repeat(70 * 1024 * 1024) }],
      }),
    );
    await started(watching);
    assert.deepEqual(
      watching.server.lists().map(({ searchParams }) => searchParams.get('limit')),
      ['4', '2', '2'],
    );
  });
});

describe("the faults of client-node's informer", () => {
  it('1: a watch is not reopened every 30 s, and one that falls silent is', async (t) => {
    const { server } = await started(await make(t, { a: '1' }, { silenceMs: 1_000 }));
    await server.when(() => server.watchRequests().length === 2 && server.watches.size === 1);
    assert.equal(server.lists().length, 1, 'a silent watch resumes, it does not relist');
    // While bookmarks come, it stays.
    const [first] = server.watches;
    for (let i = 0; i < 15; i++) {
      server.bookmark();
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    assert.equal([...server.watches][0], first);
  });

  it('3: a reset does not end it: it resumes where it was', async (t) => {
    const { server, told } = await started(await make(t, { a: '1' }));
    server.reset();
    server.put('b', '2');
    await has(told, '+b=2');
    assert.equal(server.lists().length, 1);
  });

  it('4: started twice, it watches once', async (t) => {
    const { server, reflector, told } = await started(await make(t, { a: '1' }));
    reflector.start((changes) => told.push(...changes.map(word)));
    server.put('b', '2');
    await has(told, '+b=2');
    assert.equal(server.watches.size, 1);
    assert.equal(server.lists().length, 1);
    assert.deepEqual(told, ['+a=1', '+b=2']);
  });

  it('5: an exception in a handler is a problem, and nothing more', async (t) => {
    const { server, reflector, problems } = await make(t, { a: '1' });
    reflector.start(() => {
      throw new Error('the handler is broken');
    });
    await reflector.synced;
    await server.when(() => server.watches.size === 1);
    server.put('b', '2');
    await until('the second problem', () => problems.length === 2);
    assert.match(problems.join('\n'), /a change was not taken: Error: the handler is broken/);
    assert.equal(reflector.items.get('shop/b'), '2');
    assert.equal(server.watchRequests().length, 1);
  });

  it('5: an object that can not be decoded stays as it was', async (t) => {
    const decode = (object: unknown): string => {
      const value = String(Reflect.get(Object(object), 'value'));
      if (value === 'bad') throw new Error('it is bad');
      return value;
    };
    const { server, told, problems, reflector } = await started(await make(t, { a: '1' }, {}, { decode }));
    server.put('a', 'bad');
    server.put('b', '2');
    await has(told, '+b=2');
    assert.equal(reflector.items.get('shop/a'), '1');
    assert.deepEqual(told, ['+a=1', '+b=2']);
    assert.match(problems[0] ?? '', /shop\/a stays as it was: it is bad/);
  });

  it('6: stopping is no error, and nothing is told after it', async (t) => {
    const { server, reflector, told, problems } = await started(await make(t, { a: '1' }));
    await reflector[Symbol.asyncDispose]();
    server.put('b', '2');
    await server.when(() => server.watches.size === 0);
    assert.deepEqual(told, ['+a=1']);
    assert.deepEqual(problems, []);
  });

  it('6: stopping in the middle of a list or of a wait ends at once', async (t) => {
    const { server, reflector, problems } = await make(t);
    server.once(isList, () => undefined);
    reflector.start(() => undefined);
    await server.when(() => server.requests.length === 1);
    await reflector[Symbol.asyncDispose]();
    assert.deepEqual(problems, []);
  });

  for (const [what, text] of [
    ['a line that is no JSON', '{"type":"ADDED","object":{"meta'],
    ['an event of an unknown type', '{"type":"PATCHED","object":{}}'],
    ['an object without a name', '{"type":"ADDED","object":{"metadata":{}}}'],
    ['a line without an end', 'x'.repeat(5_000)],
  ] as const)
    it(`7: ${what} is told, and what may have been lost is listed again`, async (t) => {
      const { server, told, problems } = await started(await make(t, { a: '1' }, { maxEventBytes: 4_096 }));
      server.objects.set('shop/lost', {
        kind: 'Thing',
        metadata: { name: 'lost', namespace: 'shop', resourceVersion: '5' },
        value: 'found',
      });
      server.line(text);
      await has(told, '+lost=found');
      assert.equal(problems.length, 1);
      assert.deepEqual(told, ['+a=1', '+lost=found']);
    });

  it('8: it says when it is synced, and what keeps it from being current', async (t) => {
    const watching = await make(t, { a: '1' });
    const { server, reflector } = watching;
    let problem: string | undefined;
    server.once(isList, refuse(403, 'Forbidden'));
    server.once(isList, (request, response) => {
      problem = reflector.problem();
      refuse(403, 'Forbidden')(request, response);
    });
    reflector.start(() => undefined);
    await reflector.synced;
    assert.match(problem ?? '', /GET \/api\/v1\/things: 403 it is Forbidden/);
    assert.equal(reflector.problem(), undefined);
  });
});

/** The page of a list that begins after so many objects. */
const isPage =
  (from: number) =>
  (url: URL): boolean =>
    isList(url) && Number.parseInt(url.searchParams.get('continue') ?? '0') === from;

const cutShort: Fault = (request, response) => {
  response.writeHead(200, { 'content-length': '1000' });
  response.write('{"kind":');
  setImmediate(() => request.socket.destroy());
};

describe('a list of which a page fails', () => {
  const ten = Object.fromEntries('a b c d e f g h i j'.split(' ').map((name) => [name, '1']));
  const all = Object.keys(ten).map((name) => `+${name}=1`);

  for (const [what, fault] of [
    ['429', refuse(429, 'TooManyRequests')],
    ['503', refuse(503, 'ServiceUnavailable')],
    ['403', refuse(403, 'Forbidden')],
    ['an answer that breaks off', cutShort],
  ] as const)
    it(`with ${what} goes on at that page`, async (t) => {
      const watching = await make(t, ten, { pageSize: 1, lastRetryMs: 60_000 });
      const { server } = watching;
      server.once(isPage(6), fault);
      const { told } = await started(watching);
      assert.equal(server.lists().length, 11);
      assert.deepEqual(server.pages(), [0, 1, 2, 3, 4, 5, 6, 6, 7, 8, 9]);
      assert.deepEqual(told, all);
    });

  it('drops what had vanished before it began, and tells what changed since, once', async (t) => {
    const { server, told, reflector } = await started(await make(t, ten, { pageSize: 2 }));
    const before = told.length;
    server.once(isWatch, refuse(410, 'Expired'));
    server.endWatches();
    await server.when(() => server.watches.size === 0);
    // In each half of the list.
    for (const name of ['b', 'i']) server.remove(name);
    const listed = server.lists().length;
    server.once(isPage(4), (request, response) => {
      for (const name of ['a', 'j']) server.remove(name);
      server.put('c', '2');
      server.put('h', '2');
      server.put('k', '1');
      refuse(429, 'TooManyRequests')(request, response);
    });
    await server.when(() => server.watches.size === 1);
    await has(told, '+k=1');
    assert.deepEqual(server.pages().slice(listed), [0, 2, 4, 4, 6]);
    assert.deepEqual(told.slice(before), ['-b', '-i', '-a', '-j', '+c=2', '+h=2', '+k=1']);
    assert.equal([...reflector.items.keys()].sort().join(''), 'cdefghk'.replace(/./g, 'shop/$&'));
  });

  for (const [what, faults] of [
    ['410', [refuse(410, 'Expired')]],
    ['400', [refuse(400, 'BadRequest')]],
    ['nonsense', [(_, response) => response.end('<html>')]],
    ['500 again and again', Array.from({ length: 5 }, () => refuse(500, 'InternalError'))],
  ] as const satisfies readonly (readonly [string, readonly Fault[]])[])
    it(`with ${what}, though it had been asked again, begins anew`, async (t) => {
      const { server, told, reflector } = await started(await make(t, ten, { pageSize: 2 }));
      const before = told.length;
      server.once(isWatch, refuse(410, 'Expired'));
      server.endWatches();
      await server.when(() => server.watches.size === 0);
      const listed = server.lists().length;
      server.once(isPage(4), (request, response) => {
        server.remove('a');
        server.put('k', '1');
        refuse(429, 'TooManyRequests')(request, response);
      });
      for (const fault of faults) server.once(isPage(4), fault);
      await server.when(() => server.watches.size === 1);
      const asked = [0, 2, 4, ...faults.map(() => 4), 0, 2, 4, 6, 8];
      assert.deepEqual(server.pages().slice(listed), asked);
      assert.deepEqual(told.slice(before), ['+k=1', '-a']);
      assert.equal(reflector.items.size, 10);
    });

  it('asks at the usual pace while pages come, however many fail', async (t) => {
    const watching = await make(t, ten, { pageSize: 1, lastRetryMs: 3_600_000 });
    // One that doubles its wait at each would take hours.
    for (let page = 1; page < 10; page++)
      for (let i = 0; i < 3; i++) watching.server.once(isPage(page), refuse(429, 'TooManyRequests'));
    const { server, told } = await started(watching);
    assert.equal(server.lists().length, 37);
    assert.deepEqual(told, all);
  });

  it('tells what came before an object that has no name', async (t) => {
    const watching = await make(t, { a: '1' });
    watching.server.once(isList, (_, response) =>
      json(response, 200, {
        metadata: { resourceVersion: '1' },
        items: [{ metadata: { namespace: 'shop', name: 'a' }, value: '1' }, { metadata: {} }],
      }),
    );
    const { told } = await started(watching);
    assert.deepEqual(told, ['+a=1']);
  });
});

describe('a relist', () => {
  it('waits the longer the more nodes there are; its pages, once begun, do not', async (t) => {
    let nodes = 2_000;
    const { server } = await started(
      await make(t, { a: '1', b: '2' }, { pageSize: 1, relistSpreadMs: 0, nodes: () => nodes }),
    );
    let goneMs = 0;
    let listedMs = 0;
    server.once(isWatch, (request, response) => {
      goneMs = performance.now();
      refuse(410, 'Expired')(request, response);
    });
    server.once(
      (url) => isPage(1)(url) && goneMs > 0,
      (request, response) => {
        listedMs = performance.now();
        nodes = 1_000_000_000;
        refuse(429, 'TooManyRequests')(request, response);
      },
    );
    server.endWatches();
    await server.when(() => server.lists().length === 5 && server.watches.size === 1);
    // 2,000 nodes with 2 pages each at 1,000 a second, and half of that by our random.
    assert.ok(listedMs - goneMs >= 1_990, String(listedMs - goneMs));
  });
});

describe('a server that can not go on from our version', () => {
  it('as it went back to an earlier one is listed anew after a second silence', async (t) => {
    const { server, reflector, told, problems } = await started(
      await make(t, { a: '1', b: '2', c: '3' }, { silenceMs: 1_000 }),
    );
    server.put('c', '4');
    await has(told, '+c=4');
    const before = told.length;
    server.restore(2, { a: '1', b: '0' });
    // What a watch from our version never tells.
    await server.when(() => server.watchRequests().length === 2 && server.watches.size === 1);
    server.put('d', '5');
    await has(told, '-c');
    assert.deepEqual(told.slice(before).sort(), ['+b=0', '+d=5', '-c']);
    await server.when(() => server.watches.size === 1);
    assert.equal(server.lists().length, 2);
    assert.equal(server.watchRequests().length, 4, 'the first silence resumes');
    assert.equal(problems.filter((one) => one.includes('nothing was heard')).length, 2);
    server.put('e', '6');
    await has(told, '+e=6');
    assert.equal(reflector.problem(), undefined);
  });

  for (const [what, fault] of [
    ['400', refuse(400, 'BadRequest')],
    ['an ERROR event', errorEvent(500, 'InternalError')],
  ] as const)
    it(`and says so with ${what} is listed anew at the third time in a row`, async (t) => {
      const { server, told } = await started(await make(t, { a: '1', b: '2' }));
      const before = told.length;
      for (let i = 0; i < 2; i++) server.once(isWatch, fault);
      server.endWatches();
      await server.when(() => server.watchRequests().length === 4 && server.watches.size === 1);
      assert.equal(server.lists().length, 1, 'twice is not enough');
      server.put('a', '3');
      await has(told, '+a=3');
      for (let i = 0; i < 3; i++) server.once(isWatch, fault);
      server.endWatches();
      await server.when(() => server.watches.size === 0);
      server.remove('b');
      await has(told, '-b');
      assert.deepEqual(told.slice(before), ['+a=3', '-b']);
      assert.equal(server.lists().length, 2);
    });

  it('does not say so with what has nothing to do with it', async (t) => {
    const { server, told } = await started(await make(t, { a: '1' }));
    for (const code of [401, 401, 403, 429, 500, 503, 504, 403, 429, 500])
      server.once(isWatch, refuse(code, 'Trouble'));
    server.endWatches();
    await server.when(() => server.watches.size === 0);
    server.put('b', '2');
    await has(told, '+b=2');
    assert.equal(server.lists().length, 1);
  });
});

describe('a server in trouble', () => {
  it('is not asked again before the time that it names', async (t) => {
    const watching = await make(t, { a: '1' }, { random: () => 0 });
    const { server } = watching;
    let refusedMs = 0;
    server.once(isList, (request, response) => {
      refusedMs = performance.now();
      refuse(429, 'TooManyRequests', { 'retry-after': '1' })(request, response);
    });
    await started(watching);
    assert.ok(performance.now() - refusedMs >= 1_000);
  });

  it('is asked less and less often while it is away, and found when it is back', async (t) => {
    const { server, told } = await started(await make(t, { a: '1' }));
    for (let i = 0; i < 6; i++) server.once(isWatch, (request) => request.socket.destroy());
    server.endWatches();
    await server.when(() => server.watches.size === 0);
    server.put('b', '2');
    await has(told, '+b=2');
    assert.equal(server.lists().length, 1, 'it resumes; it does not relist');
  });

  it('that answers again is asked soon, however long it was away', async (t) => {
    const { server, told } = await started(
      await make(t, { a: '1' }, { firstRetryMs: 20, lastRetryMs: 60_000 }),
    );
    const atMs: number[] = [];
    for (let i = 0; i < 7; i++)
      server.once(isWatch, (request) => {
        atMs.push(performance.now());
        request.socket.destroy();
      });
    // As an API server does that has just started and does not know everybody's rights yet, and then what was before.
    for (const [status, reason] of [
      [403, 'Forbidden'],
      [410, 'Expired'],
    ] as const)
      server.once(isWatch, (request, response) => {
        atMs.push(performance.now());
        refuse(status, reason)(request, response);
      });
    server.endWatches();
    await server.when(() => server.watches.size === 0);
    server.put('b', '2');
    await has(told, '+b=2');
    const [away = 0, forbidden = 0, gone = 0] = atMs.slice(-3);
    assert.ok(gone - forbidden < forbidden - away, atMs.map(Math.round).join(' '));
  });

  it('whose answers are nonsense is asked again', async (t) => {
    const watching = await make(t, { a: '1' });
    watching.server.once(isList, (_, response) => response.end('<html>'));
    watching.server.once(isList, (_, response) => json(response, 200, { kind: 'Thing' }));
    const { told, problems } = await started(watching);
    assert.deepEqual(told, ['+a=1']);
    assert.equal(problems.length, 2);
  });

  it('that cuts a list short is asked again', async (t) => {
    const watching = await make(t, { a: '1' });
    watching.server.once(isList, cutShort);
    const { told } = await started(watching);
    assert.deepEqual(told, ['+a=1']);
  });
});
