/** An outbound connection whose destination says nothing: what is known of it may be late, so it is decided anew. */
import assert from 'node:assert/strict';
import { PassThrough } from 'node:stream';
import { describe, it } from 'node:test';
import type { MeshState } from '../../daemon/mesh/state.ts';
import { handleOutbound } from '../../daemon/proxy/outbound.ts';
import type { Refusal, TunnelRequest, TunnelStream } from '../../daemon/proxy/seams.ts';
import { until } from '../support/wait.ts';
import { ip, pod, port, told } from '../mesh/world.ts';
import { localPod, makePlane } from './plane.kit.ts';
import type { TestPlane } from './plane.kit.ts';

const client = pod('client', '10.244.1.7');
const server = pod('server', '10.244.2.7');
const labelled = [told.pod(client), told.pod(server), told.namespace('shop', 'enabled')];
const SILENT: Refusal = { ok: false, reason: 'TUNNEL_CONNECT_FAILED', detail: 'ECONNREFUSED' };

/** A client whose connection to the server was sent off; `answers` are those to its CONNECTs, the last one for all. */
async function sendOff(options: {
  readonly server: 'enrolled' | 'leaving' | 'joining';
  readonly answers: readonly ((request: TunnelRequest, state: MeshState) => TunnelStream | Refusal)[];
  readonly holdTimeout?: number;
}): Promise<TestPlane & { readonly asked: () => number }> {
  let asked = 0;
  const test: TestPlane = makePlane({
    pod: localPod(client),
    // It was enrolled before, so that it is tunnelled to in every state while its label stands.
    deltas: [...labelled, told.published(server, 'enrolled'), told.published(server, options.server)],
    config: { holdTimeout: options.holdTimeout ?? 5_000 },
    destination: { ip: ip('10.244.2.7'), port: port(80) },
    openTunnel: (request) => {
      const answer = options.answers[Math.min(asked++, options.answers.length - 1)];
      assert.ok(answer);
      return Promise.resolve(answer(request, test.plane.state));
    },
  });
  const { ours } = await test.connect();
  handleOutbound(test.plane, client.uid, ours);
  return { ...test, asked: () => asked };
}

const isSilent = (): Refusal => SILENT;
function carries(request: TunnelRequest): TunnelStream {
  const stream = new PassThrough().on('error', () => undefined);
  return { ok: true, stream, peer: request.key.destinationId };
}
const isHeld = (test: TestPlane): Promise<unknown> =>
  until('it to be held', () => test.plane.holding.size === 1);

describe('a destination that says nothing', () => {
  it('is asked again when it has published another state, and carries the connection then', async () => {
    const test = await sendOff({ server: 'leaving', answers: [isSilent, carries] });
    await isHeld(test);
    test.tell(told.pod(pod('other', '10.244.2.8')));
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(test.asked(), 1, 'asked again though nothing had changed');
    test.tell(told.published(server, 'joining'));
    const [open] = await until('it to be carried', () => {
      const list = test.plane.connections.list(1);
      return list[0]?.dstIdentity === undefined ? undefined : list;
    });
    assert.equal(open?.dstIdentity, 'spiffe://cluster.local/ns/shop/sa/server');
    assert.equal(test.asked(), 2);
    test.plane.connections.cut(() => true, 'DRAINED');
  });

  it('is refused with what was tried when nothing has changed for holdTimeout', async () => {
    const test = await sendOff({ server: 'leaving', answers: [isSilent], holdTimeout: 200 });
    const record = await test.record();
    assert.deepEqual([record.reason, record.detail], ['TUNNEL_CONNECT_FAILED', 'ECONNREFUSED']);
    assert.equal(test.asked(), 1);
  });

  it('is refused at once when it is enrolled for sure', async () => {
    const test = await sendOff({ server: 'enrolled', answers: [isSilent], holdTimeout: 60_000 });
    assert.equal((await test.record()).reason, 'TUNNEL_CONNECT_FAILED');
    assert.equal(test.asked(), 1);
  });

  it('is asked again when its state changed while it was asked', async () => {
    const changes = (_request: TunnelRequest, state: MeshState): Refusal => {
      state.apply([told.published(server, 'enrolled')]);
      return SILENT;
    };
    const test = await sendOff({ server: 'leaving', answers: [changes, isSilent] });
    await test.record();
    assert.equal(test.asked(), 2);
  });

  it('is dialled in the clear once its label is gone', async () => {
    const test = await sendOff({ server: 'leaving', answers: [isSilent] });
    await isHeld(test);
    test.tell(told.namespace('shop', undefined), told.published(server, undefined));
    // The kernel of this test has no socket to dial with.
    assert.equal((await test.record()).reason, 'POD_GONE');
  });

  it('is not asked again when it has answered', async () => {
    const refused = { ok: false, reason: 'TUNNEL_REFUSED', detail: 'status 401' } as const;
    const test = await sendOff({ server: 'leaving', answers: [() => refused] });
    assert.equal((await test.record()).reason, 'TUNNEL_REFUSED');
    assert.equal(test.asked(), 1);
  });
});

describe("a tunnel's own descriptor", () => {
  it("is on its pod's account: over the limit there is no tunnel", async () => {
    const test = makePlane({
      pod: localPod(client),
      deltas: [...labelled, told.published(server, 'enrolled')],
      limits: { perPod: 1 },
      destination: { ip: ip('10.244.2.7'), port: port(80) },
      openTunnel: (request) => {
        const dialled = request.dial();
        assert.ok(!dialled.ok);
        return Promise.resolve(dialled);
      },
    });
    const { ours } = await test.connect();
    handleOutbound(test.plane, client.uid, ours);
    assert.equal((await test.record()).reason, 'TUNNEL_LIMIT');
    assert.equal(test.plane.descriptors.take(client.uid), true, 'it was not given back');
  });
});
