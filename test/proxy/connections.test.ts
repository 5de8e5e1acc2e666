import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parsePodUid } from '../../daemon/mesh/ids.ts';
import type { PodUid } from '../../daemon/mesh/ids.ts';
import type { ConnectionRecord } from '../../daemon/mesh/wiring.ts';
import { Connections } from '../../daemon/proxy/connections.ts';
import { Descriptors, shareOf } from '../../daemon/proxy/descriptors.ts';
import type { DescriptorLimits } from '../../daemon/proxy/descriptors.ts';

describe('Connections', () => {
  it('refuses a pod over its limit, and no other pod; an end gives the place back', () => {
    const { connections, open } = make({ perPod: 2, total: 10 });
    const first = open('a');
    assert.deepEqual([first.overLimit, open('a').overLimit, open('a').overLimit], [false, false, true]);
    assert.equal(open('b').overLimit, false);
    // The refused one holds its socket until it is closed: it counts too.
    for (const { connection } of [first, open('a')]) connection.close('OK');
    assert.equal(open('a').overLimit, true);
    connections.cut((connection) => connection.podUid === uid('a'), 'POD_GONE');
    assert.equal(open('a').overLimit, false);
  });

  it('refuses everybody over the total', () => {
    const { open } = make({ perPod: 10, total: 2 });
    assert.deepEqual([open('a').overLimit, open('b').overLimit, open('c').overLimit], [false, false, true]);
  });

  it('counts a connection that goes on in the clear as two, once, until it ends', () => {
    const { open } = make({ perPod: 3, total: 10 });
    const { connection } = open('a');
    assert.equal(connection.takeSecond(), true);
    assert.equal(connection.takeSecond(), true);
    const third = open('a');
    assert.equal(third.overLimit, false);
    assert.equal(third.connection.takeSecond(), false);
    third.connection.close('CONNECTION_LIMIT');
    assert.equal(open('a').overLimit, false);
    connection.close('OK');
    assert.equal(connection.takeSecond(), true);
    assert.deepEqual([open('a').overLimit, open('a').overLimit, open('a').overLimit], [false, false, true]);
  });

  it('writes one record for each, whatever is called afterwards', () => {
    const { open, records } = make({ perPod: 1, total: 1 });
    const { connection } = open('a');
    connection.close('CLIENT_RESET', 'why');
    connection.close('OK');
    connection.cut('DRAINED');
    assert.deepEqual(
      records.map(({ reason, detail }) => [reason, detail]),
      [['CLIENT_RESET', 'why']],
    );
  });

  it('lists what is open, up to a number, with the bytes so far', () => {
    const { connections, open } = make({ perPod: 9, total: 9 });
    const { connection } = open('a');
    open('b');
    connection.counters = { bytesSent: 3, bytesReceived: 4 };
    connection.facts.dstAddr = '10.0.0.2:80';
    const [first, ...others] = connections.list(1);
    assert.deepEqual([first?.bytesSent, first?.bytesReceived, first?.dstAddr], [3, 4, '10.0.0.2:80']);
    assert.equal(others.length, 0);
    const ids = connections.list(9).map(({ connId }) => connId);
    assert.equal(new Set(ids).size, 2);
  });

  it('tells of those that outlive a whole batch once, and their record says so', () => {
    const { connections, open, records } = make({ perPod: 9, total: 9 });
    const long = open('a').connection;
    const short = open('a').connection;
    assert.equal(connections.takeOpened().length, 0);
    short.close('OK');
    assert.equal(connections.takeOpened().length, 1);
    assert.equal(connections.takeOpened().length, 0);
    long.close('OK');
    assert.deepEqual(
      records.map(({ reportedOpen }) => reportedOpen),
      [false, true],
    );
  });

  it("gives each worker its share of the node's limits, rounded up", () => {
    assert.deepEqual(shareOf({ perPod: 5, total: 100 }, 2), { perPod: 3, total: 50 });
    assert.deepEqual(shareOf({ perPod: 1, total: 1 }, 4), { perPod: 1, total: 1 });
  });
});

function uid(name: string): PodUid {
  const parsed = parsePodUid(`00000000-0000-0000-0000-00000000000${name}`);
  assert.ok(parsed !== undefined);
  return parsed;
}

function make(limits: DescriptorLimits): {
  connections: Connections;
  records: ConnectionRecord[];
  open: (pod: string) => ReturnType<Connections['open']>;
} {
  const records: ConnectionRecord[] = [];
  const connections = new Connections('node-0', new Descriptors(limits, () => false), {
    onOpen: () => undefined,
    onClosed: (record) => records.push(record),
  });
  return { connections, records, open: (pod) => connections.open(uid(pod), 'outbound', '10.0.0.1:1') };
}

describe('Descriptors', () => {
  it('closes an idle tunnel for one more: of the pod that is full, or of any when all is full', () => {
    const asked: (string | undefined)[] = [];
    let isIdle = true;
    const descriptors = new Descriptors({ perPod: 2, total: 3 }, (uid) => {
      asked.push(uid);
      return isIdle;
    });
    assert.deepEqual([descriptors.take(uid('a')), descriptors.take(uid('a'))], [true, true]);
    assert.deepEqual(asked, []);
    assert.equal(descriptors.take(uid('a')), true);
    assert.equal(descriptors.take(uid('b')), true);
    assert.deepEqual(asked, [uid('a'), undefined]);
    isIdle = false;
    assert.equal(descriptors.take(uid('b')), false);
    // What was over the limit, and the tunnels that were closed, are given back.
    descriptors.give(uid('b'));
    descriptors.give(uid('a'), 2);
    assert.equal(descriptors.take(uid('b')), true);
  });
});
