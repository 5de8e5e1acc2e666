/** Policies as files of the folder: how soon they are in force, and what a broken file does and is told of. */
import assert from 'node:assert/strict';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { TestContext } from 'node:test';
import { until } from '../support/wait.ts';
import type { Server } from './kit/apps.ts';
import type { LogRecord } from './kit/daemon.ts';
import { comes } from './policies.ts';
import { QUICK, openShop } from './shop.ts';
import type { Shop } from './shop.ts';

const FILE = 'policy.yaml';
/** Lets in `namespace` only; line 12 names it. */
const only = (namespace: string): string =>
  [
    'apiVersion: security.istio.io/v1beta1',
    'kind: AuthorizationPolicy',
    'metadata:',
    '  name: only',
    '  namespace: shop',
    'spec:',
    '  action: ALLOW',
    '  rules:',
    '    - from:',
    '        - source:',
    '            namespaces:',
    `              - ${namespace}`,
    '',
  ].join('\n');

describe('policies as files', { timeout: 600_000 }, () => {
  let shop: Shop;
  let sink: Server;
  before(async () => {
    shop = await openShop();
    sink = await shop.server.serve('sink', 8081);
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  const folder = (): string => shop.lab.cluster.folder(shop.daemon2.node.name);
  const put = (text: string): void => shop.lab.cluster.writeFile(folder(), FILE, text);
  const isIn = (): Promise<boolean> => comes(shop.client, shop.server, sink);
  /** Waits until the client comes in, or does not any more. */
  async function become(wanted: boolean, test: TestContext, what: string): Promise<void> {
    const startMs = performance.now();
    await until(what, async () => (await isIn()) === wanted, { everyMs: 5 });
    test.diagnostic(`${what}: ${Math.round(performance.now() - startMs)} ms`);
  }
  /** The lines of `culvert status` that tell of a problem with the file. */
  async function told(pattern: RegExp): Promise<string> {
    let output = '';
    const isTold = async (): Promise<boolean> => {
      ({ output } = await shop.daemon2.cli(['status']));
      return pattern.test(output);
    };
    await until(`${String(pattern)} in culvert status`, isTold, { detail: () => output });
    return output;
  }
  const untold = (): Promise<void> =>
    until('no problem in culvert status', async () => {
      const { output } = await shop.daemon2.cli(['status']);
      return !output.includes(FILE);
    }).then(() => undefined);

  it('are in force as soon as they are written, changed, written in place, and gone', async (test) => {
    assert.equal(await isIn(), true);
    put(only('bank'));
    await become(false, test, 'refused after the file was there');
    put(only('shop'));
    await become(true, test, 'let in after it was changed');
    writeFileSync(join(folder(), FILE), only('bank'));
    await become(false, test, 'refused after it was written in place');
    rmSync(join(folder(), FILE));
    await become(true, test, 'let in after it was gone');
  });

  it('that are no YAML are told with file, line and reason, and what they said last stays in force', async (test) => {
    put(only('bank'));
    await become(false, test, 'refused');
    put(only('shop').replace('- shop', '- [shop'));
    const status = await told(/policy\.yaml:\d+: /);
    assert.match(status, /policy\.yaml:1[23]: .*(?:flow|\])/i);
    assert.equal(await isIn(), false);
    const isProblem = ({ where }: LogRecord): boolean => String(where).endsWith(FILE);
    const problem = await shop.daemon2.waitForLog('the problem in the log', isProblem);
    assert.deepEqual([problem['level'], problem['line']], ['warn', 13]);
    put(only('shop'));
    await become(true, test, 'let in after it was mended');
    await untold();
  });

  it('with a field that nobody knows lose the rule that has it, and are told with the line and the field', async (test) => {
    put(only('shop').replace('namespaces:', 'namespacez:'));
    await become(false, test, 'refused: the policy allows nothing any more');
    await told(/policy\.yaml:1[012]: AuthorizationPolicy shop\/only: spec\.rules\[0\].*namespacez/);
    await told(/the rule is dropped: the policy allows less/);
    rmSync(join(folder(), FILE));
    await become(true, test, 'let in after it was gone');
    await untold();
  });

  it('that can not be read when a daemon starts keep everybody out until they are mended', async (test) => {
    put(only('bank'));
    await become(false, test, 'refused');
    put(only('shop').replace('- shop', '- [shop'));
    await told(/policy\.yaml:1/);
    await shop.daemon2.stop('SIGKILL');
    const daemon2 = await shop.lab.startDaemon(2, { flags: QUICK, waitReady: false });
    shop = { ...shop, daemon2 };
    await told(/policy\.yaml: names policies/);
    const { status } = await daemon2.http(15_021, '/readyz');
    assert.notEqual(status, 200);
    assert.equal(await isIn(), false);
    put(only('shop'));
    await daemon2.ready();
    await become(true, test, 'let in after it was mended');
  });
});
