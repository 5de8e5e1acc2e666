/** The lab's applications: what they count is what the mesh's tests believe. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { until } from '../support/wait.ts';
import { Inspector } from './kit/inspector.ts';
import { Lab } from './kit/lab.ts';
import type { LabPod } from './kit/pod.ts';

describe('applications', () => {
  let lab: Lab;
  let client: LabPod;
  let server: LabPod;
  before(async () => {
    lab = await Lab.create();
    client = await lab.pod({ name: 'client', node: 1 });
    server = await lab.pod({ name: 'server', node: 2 });
  });
  after(() => lab[Symbol.asyncDispose]());

  it('echo 50 MB, with equal digests at both ends', async () => {
    const echo = await server.serve('echo', 1001);
    const result = await client.send(server.ip, 1001, { bytes: 50_000_000 });
    const closed = await echo.waitForClosed();
    assert.equal(result.end, 'eof');
    assert.equal(result.received, 50_000_000);
    assert.equal(result.receivedDigest, result.sentDigest);
    assert.equal(closed.receivedDigest, result.sentDigest);
    assert.equal(closed.peer, result.local);
  });

  it('reply after the client has ended, in another direction of another size', async () => {
    await server.serve('reply', 1002, { bytes: 3_000_000, delayMs: 100 });
    const result = await client.send(server.ip6, 1002, { bytes: 1_000_000 });
    assert.deepEqual([result.end, result.sent, result.received], ['eof', 1_000_000, 3_000_000]);
  });

  it('speak first, and send what was asked', async () => {
    await server.serve('hello', 1003);
    await server.serve('source', 1004, { bytes: 1_000_000 });
    assert.equal((await client.send(server.ip, 1003)).head.toString(), 'hello from server\n');
    assert.equal((await client.send(server.ip, 1004)).received, 1_000_000);
  });

  it('stall until told to go on: the sender feels it', async () => {
    const stall = await server.serve('stall', 1005);
    await using sending = await client.startSend(server.ip, 1005, { bytes: 200_000_000 });
    await until('the sender to begin', async () => (await sending.progress()).sent > 0);
    assert.equal((await stall.stats()).received, 0);
    assert.ok((await sending.progress()).sent < 100_000_000);
    stall.resume();
    assert.equal((await sending.result()).sent, 200_000_000);
    assert.equal((await stall.waitForClosed()).received, 200_000_000);
  });

  it('count payload bytes, of none when none came', async () => {
    const sink = await server.serve('sink', 1006);
    assert.equal((await sink.stats()).received, 0);
    await client.send(server.ip, 1006, { bytes: 12_345 });
    await sink.waitForClosed();
    assert.deepEqual([(await sink.stats()).received, (await sink.stats()).accepted], [12_345, 1]);
  });

  it('hold a thousand connections, each alive', async () => {
    await server.serve('echo', 1007, { quiet: true });
    await using idle = await client.idle(server.ip, 1007, 1_000);
    const opened = await idle.opened();
    assert.deepEqual([opened.ok, opened.failed], [1_000, 0]);
    assert.deepEqual(await idle.ping(), { event: 'pinged', ok: 1_000, open: 1_000 });
  });

  it('ask on a new connection each time, and tell failures by name', async () => {
    const web = await server.serve('http', 1008);
    const loop = await client.loop(server.ip, 1008, { everyMs: 5 });
    await until('some requests', async () => (await loop.stats()).ok >= 10);
    await web[Symbol.asyncDispose]();
    await until('a failure', async () => (await loop.stats()).failed > 0);
    const counts = await loop.stop();
    assert.equal(counts.started, counts.ok + counts.failed);
    assert.ok((counts.errors['ECONNREFUSED'] ?? 0) > 0, JSON.stringify(counts));
  });

  it('say how a connection failed', async () => {
    const result = await client.send(server.ip, 1, { bytes: 1 });
    assert.deepEqual([result.connected, result.error, result.received], [false, 'ECONNREFUSED', 0]);
  });
});

describe('the inspector', () => {
  const SCRIPT = `
    const { Worker } = require('node:worker_threads');
    const worker = new Worker('setInterval(() => {}, 1e3)', { eval: true, name: 'data-plane' });
    worker.on('exit', (code) => console.log('worker gone ' + code));
    let last = performance.now(), longest = 0;
    setInterval(() => {
      const now = performance.now();
      longest = Math.max(longest, now - last);
      last = now;
    }, 20);
    globalThis.longestTurn = () => longest;`;

  it('evaluates in threads of a process in a pod, blocks its main thread and kills a worker', async () => {
    await using lab = await Lab.create({ nodes: 1 });
    const pod = await lab.pod({ name: 'debugged', node: 1 });
    const node = await pod.spawn([process.execPath, '--inspect=127.0.0.1:9229', '-e', SCRIPT]);
    await node.waitForLine('the inspector', (line) => line.includes('Debugger listening') || undefined);
    await using inspector = await Inspector.connect(pod.place(), 9229);
    assert.equal(await inspector.evaluate('process.pid > 1 && require("node:os").hostname()'), 'node-1');
    await assert.rejects(inspector.evaluate('nowhere()'), /nowhere is not defined/);
    const worker = await inspector.worker('');
    assert.equal(await inspector.evaluate('require("node:worker_threads").isMainThread', worker), false);
    await inspector.block(300);
    const longest = async (): Promise<number> => Number(await inspector.evaluate('longestTurn()'));
    await until('the main thread to have stood still', async () => (await longest()) >= 300);
    inspector.kill(worker);
    await node.waitForLine('the worker to be gone', (line) => line === 'worker gone 70' || undefined);
  });
});
