import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { OlderConnections } from '../../daemon/capture/older.ts';
import type { TcpSocket } from '../../native/hot/records.ts';
import { ip, uid } from '../mesh/world.ts';

const OURS = 9n;
const POD = ip('10.244.1.5');

/** A connection of the pod: `:port` on its side, and whom it talks to. */
function socket(cookie: bigint, port: number, peer: string, over: Partial<TcpSocket> = {}): TcpSocket {
  return {
    family: 4,
    state: 'ESTABLISHED',
    source: POD,
    sourcePort: port,
    destination: ip(peer),
    destinationPort: 443,
    cookie,
    cgroupId: 5n,
    inode: 1,
    ifindex: 0,
    ...over,
  };
}

class Pod {
  sockets: TcpSocket[] = [];
  isBlind = false;
  readonly cut: bigint[] = [];
  readonly older = new OlderConnections(
    {
      hot: {
        tcpSockets: () => (this.isBlind ? -24 : { sockets: this.sockets, truncated: false }),
        destroySocket: (_fd, { cookie }) => {
          this.cut.push(cookie);
          this.sockets = this.sockets.filter((each) => each.cookie !== cookie);
          return 0;
        },
      },
      isOwnCgroup: (id) => id === OURS,
    },
    uid('pod'),
    3,
  );
}

const listener = socket(1n, 8080, '0.0.0.0', { state: 'LISTEN' });

describe('connections older than enrolment', () => {
  it('are those of the pod with somebody outside: not ours, not inside it, not later ones', () => {
    const pod = new Pod();
    pod.sockets = [
      listener,
      socket(2n, 8080, '10.244.2.7'),
      socket(3n, 40_001, '10.244.2.7'),
      socket(4n, 40_002, '10.244.2.7', { cgroupId: OURS }),
      socket(5n, 40_003, '127.0.0.1'),
      socket(6n, 40_004, POD),
    ];
    assert.equal(pod.older.note([]), 2);
    pod.sockets.push(socket(7n, 8080, '172.16.0.1'));
    assert.equal(pod.older.count(), 2);
    assert.equal(
      pod.older.cut((port) => Number(port) === 8080),
      1,
    );
    assert.deepEqual(pod.cut, [2n]);
    assert.equal(pod.older.count(), 1);
  });

  it('are none to a range that the pod takes out, but who comes in from there is', () => {
    const pod = new Pod();
    pod.sockets = [listener, socket(2n, 8080, '192.0.2.9'), socket(3n, 40_001, '192.0.2.9')];
    assert.equal(pod.older.note(['192.0.2.0/24']), 1);
    pod.older.cut(() => true);
    assert.deepEqual(pod.cut, [2n]);
  });

  it('are so too when their range is taken out no longer; who came in meanwhile is none', () => {
    const pod = new Pod();
    pod.sockets = [listener];
    assert.equal(pod.older.note(['192.0.2.0/24']), 0);
    pod.sockets.push(socket(2n, 8080, '172.16.0.1'), socket(3n, 40_001, '192.0.2.9'));
    pod.older.exclude(['192.0.2.0/24']);
    assert.equal(pod.older.count(), 0);
    pod.older.exclude([]);
    assert.equal(pod.older.count(), 1);
    pod.older.cut(() => true);
    assert.deepEqual(pod.cut, [3n]);
  });

  it('are noted as soon as they can be listed', () => {
    const pod = new Pod();
    pod.sockets = [listener, socket(2n, 8080, '10.244.2.7')];
    pod.isBlind = true;
    assert.throws(() => pod.older.note([]), /list the connections/);
    assert.throws(() => pod.older.count());
    pod.isBlind = false;
    assert.equal(pod.older.count(), 1);
  });
});
