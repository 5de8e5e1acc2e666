import assert from 'node:assert/strict';
import { linkSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { Owner } from '../../daemon/capture/owner.ts';
import { MeshError } from '../../daemon/errors.ts';
import { until } from '../support/wait.ts';

describe('the owner of a node', () => {
  let directory: string;
  const owners: Owner[] = [];
  beforeEach(() => (directory = mkdtempSync(path.join(tmpdir(), 'culvert-owner-'))));
  afterEach(() => {
    for (const owner of owners.splice(0)) owner.release();
    rmSync(directory, { recursive: true });
  });

  /** A socket that nobody listens on any more. */
  async function leaveDead(file: string): Promise<void> {
    const name = path.join(directory, 'dying');
    await new Promise<void>((resolve) => {
      const dead = createServer().listen(name, () => {
        // The link outlives the server, which removes only the name that it made.
        linkSync(name, file);
        dead.close(() => resolve());
      });
    });
  }

  async function take(heard: string[] = []): Promise<Owner> {
    const owner = await Owner.take(directory, {
      onYield: () => void heard.push('yield'),
      onReturned: () => void heard.push('returned'),
      onOrphaned: () => void heard.push('orphaned'),
    });
    owners.push(owner);
    return owner;
  }

  it('is the first that asks; the next one has yielded to it before it goes on, with a higher generation', async () => {
    const heard: string[] = [];
    const first = await take(heard);
    assert.deepEqual([first.generation, first.hasYielded, heard], [1, false, []]);
    const second = await take();
    assert.deepEqual(heard, ['yield']);
    assert.deepEqual([second.generation, first.hasYielded, second.hasYielded], [2, true, false]);
  });

  it('gets the node back when the newcomer goes', async () => {
    const heard: string[] = [];
    const first = await take(heard);
    const second = await take();
    second.release();
    await until('the node to come back', () => heard.includes('returned'));
    assert.equal(first.hasYielded, false);
  });

  it('does not take it back when it ends itself, and the newcomer keeps it', async () => {
    const heard: string[] = [];
    const first = await take(heard);
    const second = await take();
    first.release();
    const third = await take();
    assert.deepEqual([third.generation, second.hasYielded], [3, true]);
    assert.deepEqual(heard, ['yield']);
  });

  it('hears, once it has released the node, that the newcomer ends with nobody in its place', async () => {
    const heard: string[] = [];
    const first = await take(heard);
    const second = await take();
    first.release();
    second.release();
    await until('the newcomer’s last word', () => heard.includes('orphaned'));
    assert.deepEqual(heard, ['yield', 'orphaned']);
  });

  it('does not hear it of a newcomer that yielded itself', async () => {
    const heard: [string[], string[]] = [[], []];
    const first = await take(heard[0]);
    const second = await take(heard[1]);
    const third = await take();
    first.release();
    second.release();
    third.release();
    await until('the last one’s word', () => heard[1].includes('orphaned'));
    assert.deepEqual(heard, [['yield'], ['yield', 'orphaned']]);
  });

  it('yields to one at a time: a third that asks meanwhile is told so', async () => {
    // The name still leads to the old owner until the newcomer has taken it: ask there at the same time.
    await take();
    const both = await Promise.allSettled([take(), take()]);
    const refused = both.filter((result) => result.status === 'rejected');
    for (const { reason } of refused) assert.equal(Reflect.get(Object(reason), 'code'), 'NODE_OWNED');
    assert.ok(refused.length <= 1, 'nobody has the node');
  });

  it('is one only of two that start at once', async () => {
    const both = await Promise.allSettled([take(), take()]);
    const got = both.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
    assert.equal(got.filter((owner) => !owner.hasYielded).length, 1);
  });

  it('takes a dead owner’s name over, and leaves nothing behind', async () => {
    const file = path.join(directory, 'owner.sock');
    await new Promise<void>((resolve) => {
      const dead = createServer().listen(path.join(directory, 'x'), () => dead.close(() => resolve()));
    });
    writeFileSync(file, '');
    const owner = await take();
    assert.ok(statSync(file).isSocket());
    owner.release();
    assert.deepEqual(readdirSync(directory), []);
  });

  it('is one only of many that find a dead one’s name at once', async () => {
    const file = path.join(directory, 'owner.sock');
    for (let round = 0; round < 5; round++) {
      await leaveDead(file);
      const all = await Promise.allSettled(Array.from({ length: 6 }, () => take()));
      const got = all.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
      for (const result of all)
        if (result.status === 'rejected')
          assert.equal(Reflect.get(Object(result.reason), 'code'), 'NODE_OWNED');
      assert.equal(got.filter((owner) => !owner.hasYielded).length, 1);
      for (const owner of owners.splice(0).reverse()) owner.release();
    }
    rmSync(file, { force: true });
    assert.deepEqual(readdirSync(directory), []);
  });

  it('does not take the name from one who took it from the dead one a moment ago', async () => {
    const file = path.join(directory, 'owner.sock');
    await leaveDead(file);
    const inode = statSync(file, { bigint: true }).ino;
    // A newcomer that is on its turn just now.
    const turn = path.join(directory, `owner-after-${inode}.sock`);
    writeFileSync(turn, '');
    await assert.rejects(take(), (error) => Reflect.get(Object(error), 'code') === 'NODE_OWNED');
    assert.equal(statSync(file, { bigint: true }).ino, inode);
    rmSync(turn);
    await take();
  });

  for (const [what, answer] of [
    ['no JSON', 'hello\n'],
    ['no answer of ours', '{"generation":"two"}\n'],
    ['no end', 'x'.repeat(5_000)],
  ] as const)
    it(`is refused, with a typed error, by something that answers with ${what}`, async () => {
      await using server = createServer((socket) => {
        socket.on('error', () => undefined);
        socket.write(answer);
      });
      const file = path.join(directory, 'owner.sock');
      await new Promise<void>((resolve) => server.listen(file, resolve));
      await assert.rejects(
        take(),
        (error) =>
          error instanceof MeshError &&
          error.code === 'NODE_OWNED' &&
          /no daemon of ours/.test(error.message),
      );
      assert.deepEqual(readdirSync(directory), ['owner.sock']);
    });
});
