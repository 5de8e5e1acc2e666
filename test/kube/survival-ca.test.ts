/**
 * The cluster's CA on a real Kubernetes under a steady load of new connections between two nodes: away, killed while it
 * signs, its root rotated and replaced (issue 7). Each connection is counted.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { rootHash } from '../../daemon/identity/bundle.ts';
import { readPem, verifyChain } from '../../daemon/identity/chain.ts';
import { parseSpiffeId } from '../../daemon/mesh/ids.ts';
import { TRUST_DOMAIN } from '../identity/forge.ts';
import { IS_LONG } from '../lab/shop.ts';
import { tempDir } from '../support/tmp.ts';
import { until } from '../support/wait.ts';
import { SHOP, SYSTEM } from './kit/mesh.ts';
import { pod } from './kit/objects.ts';
import { opensslCa, postRequest } from './survival-ca.ts';
import { Load, allWell, shown } from './survival-load.ts';
import { Stage } from './survival-stage.ts';

const CSRS = 60;

let stage: Stage;
before(async () => {
  stage = await Stage.start();
});
after(() => stage[Symbol.asyncDispose]());

describe('the cluster’s CA', { timeout: 900_000 }, () => {
  it('gone and back: nobody notices but a pod that has no certificate yet, which gets it', async (context) => {
    const { mesh } = stage;
    await using load = await Load.start(stage);
    await mesh.kubectl('scale', '-n', SYSTEM, 'deployment/culvert-ca', '--replicas=0');
    await until(
      'its end',
      async () => (await mesh.pods(SYSTEM, 'app.kubernetes.io/component=ca')).length === 0,
      {
        timeoutMs: 90_000,
        everyMs: 250,
      },
    );
    await mesh.controlPlane.apply(
      { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'waits', namespace: SHOP } },
      pod({ name: 'waits', namespace: SHOP, node: 'node-1', serviceAccount: 'waits' }),
    );
    await mesh.shop.waitReady('waits');
    const waits = await mesh.inPod('waits');
    const server = (await mesh.inPod('server')).ip;
    const early = await waits.request(server, 8080, undefined, 3_000);
    assert.equal(early.status, 0, 'it got through without a certificate');
    await load.more(300);
    const backMs = Date.now();
    await mesh.kubectl('scale', '-n', SYSTEM, 'deployment/culvert-ca', '--replicas=2');
    await mesh.waitState('enrolled', ['waits']);
    context.diagnostic(`enrolled ${Date.now() - backMs} ms after the CA was told to come back`);
    assert.equal((await waits.request(server, 8080)).status, 200);
    const tally = await load.stop();
    context.diagnostic(shown(tally));
    await allWell(stage, tally);
    await stage.ca.ready();
  });

  it('its leader killed while it signs: the other replica signs all that waits, nothing twice', async (context) => {
    const { mesh } = stage;
    const daemon = await mesh.daemonOn(mesh.cluster.node(2));
    const id = parseSpiffeId(`spiffe://cluster.local/ns/${SHOP}/sa/server`);
    assert.ok(id);
    using client = await stage.ca.daemonClient(daemon);
    await using load = await Load.start(stage);
    const names: string[] = [];
    const posting = (async () => {
      while (names.length < CSRS) names.push(await postRequest(client, id));
    })();
    await until('some to be signed', async () => (await stage.ca.signed(names)).size >= 5, {
      timeoutMs: 30_000,
    });
    const dead = await stage.ca.killLeader();
    await posting;
    const before = await stage.ca.signed(names);
    assert.ok(before.size < CSRS, 'all were signed before: it proves nothing');
    const killedMs = Date.now();
    const next = await stage.ca.leader(dead);
    await until('all certificates', async () => (await stage.ca.signed(names)).size === CSRS, {
      timeoutMs: 90_000,
      everyMs: 250,
    });
    context.diagnostic(
      `${before.size} of ${CSRS} signed before the kill; all ${Date.now() - killedMs} ms after it, by ${next.name}`,
    );
    const roots = await stage.ca.bundle();
    const after = await stage.ca.signed(names);
    for (const [name, chain] of before)
      assert.equal(after.get(name), chain, `${name} has another certificate`);
    for (const chain of after.values()) {
      const verdict = verifyChain(chain, roots, { trustDomain: TRUST_DOMAIN, nowMs: Date.now() });
      assert.ok(verdict.ok && verdict.id === id, JSON.stringify(verdict));
    }
    assert.equal(new Set(after.values()).size, CSRS);
    const logs = await stage.ca.logs();
    for (const name of names) {
      const times = logs.split('\n').filter((line) => line.includes(name) && line.includes('issued')).length;
      assert.ok(times <= 1, `${name} was issued ${times} times`);
    }
    const tally = await load.stop();
    context.diagnostic(shown(tally));
    await allWell(stage, tally);
    await stage.ca.ready();
  });
});

describe('the root', { timeout: 900_000 }, () => {
  it('rotated under load, the CA’s leader killed on the way: no handshake fails', async (context) => {
    const [old = ''] = readPem(await stage.ca.bundle(), 8).map(rootHash);
    await using load = await Load.start(stage);
    const asked = await stage.mesh.culvert(['ca', 'rotate']);
    assert.equal(asked.code, 0, asked.stderr);
    const startedMs = Date.now();
    for (const step of IS_LONG ? ['trust', 'reissue', 'retire'] : ['reissue']) {
      await stage.ca.reaches(step);
      const dead = await stage.ca.killLeader();
      await stage.ca.leader(dead);
    }
    await stage.ca.reaches('steady', ({ request }) => request === 'done');
    await stage.ca.usesOnlyAnother(old);
    await load.more(200);
    const tally = await load.stop();
    context.diagnostic(`rotated in ${Date.now() - startedMs} ms: ${shown(tally)}`);
    await allWell(stage, tally);
    assert.ok(tally.handshakes > 50);
    await stage.ca.ready();
  });

  it('replaced by the user’s, in Secret culvert-ca: no handshake fails', async (context) => {
    const { mesh } = stage;
    const [old = ''] = readPem(await stage.ca.bundle(), 8).map(rootHash);
    await using dir = await tempDir('openssl');
    await opensslCa(dir.path);
    await using load = await Load.start(stage);
    const startedMs = Date.now();
    const file = (name: string): string => `--from-file=${name}=${join(dir.path, name)}`;
    const made = [
      'create',
      'secret',
      'generic',
      'culvert-ca',
      '-n',
      SYSTEM,
      '--dry-run=client',
      '-o',
      'json',
    ];
    const secret = await mesh.kubectl(...made, file('tls.crt'), file('tls.key'), file('ca.crt'));
    await mesh.kubectl('delete', 'secret', 'culvert-ca', '-n', SYSTEM);
    await mesh.controlPlane.kubectl(['create', '-f', '-'], { input: secret });
    await stage.ca.reaches('trust');
    await stage.ca.reaches('steady');
    await stage.ca.usesOnlyAnother(old);
    const ours = readPem(readFileSync(join(dir.path, 'ca.crt'), 'utf8'), 1).map(rootHash);
    assert.deepEqual(readPem(await stage.ca.bundle(), 8).map(rootHash), ours);
    await load.more(200);
    const tally = await load.stop();
    context.diagnostic(`replaced in ${Date.now() - startedMs} ms: ${shown(tally)}`);
    await allWell(stage, tally);
  });
});
