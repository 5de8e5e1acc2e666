/** Random CONNECTs and random bytes. FUZZ_RUNS sets the count (short form 2,000). */
import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { connect as connectTls } from 'node:tls';
import { test } from 'node:test';
import fc from 'fast-check';
import { hostPort, parseIp } from '../../daemon/mesh/ids.ts';
import { parseAuthority, parseConnect, parseForwarded } from '../../daemon/proxy/hbone/connect.ts';
import { CLIENT_ID, openWire } from '../proxy/hbone.kit.ts';
import { issue } from '../support/pki.ts';

const RUNS = Number(process.env['FUZZ_RUNS'] ?? 2_000);
const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');

test('what parseAuthority takes is canonical: it prints as it was read', () => {
  const near = fc.mixedCase(fc.oneof(fc.ipV4(), fc.ipV4Extended(), fc.ipV6(), fc.domain(), fc.string()));
  const text = fc.tuple(
    fc.constantFrom('', '['),
    near,
    fc.constantFrom('', ']'),
    fc.constantFrom('', ':80', ':0', ':080'),
  );
  fc.assert(
    fc.property(text, (parts) => {
      const written = parts.join('');
      const read = parseAuthority(written);
      if (read !== undefined) assert.equal(hostPort(read.ip, read.port), written);
    }),
    { numRuns: RUNS },
  );
});

test('every canonical address and port is read back', () => {
  fc.assert(
    fc.property(fc.oneof(fc.ipV4(), fc.ipV6()), fc.integer({ min: 1, max: 65_535 }), (address, port) => {
      const ip = parseIp(address);
      if (ip === undefined) return;
      assert.deepEqual(parseAuthority(hostPort(ip, port)), { ip, port });
      assert.deepEqual(parseForwarded(`for="${hostPort(ip, port)}";host=x`), { ip, port });
    }),
    { numRuns: RUNS },
  );
});

test('no header value makes the parsers throw', () => {
  const value = fc.string({ unit: 'binary', maxLength: 200 });
  fc.assert(
    fc.property(value, value, value, (authority, forwarded, baggage) => {
      parseConnect({ ':method': 'CONNECT', ':authority': authority, forwarded, baggage });
    }),
    { numRuns: RUNS },
  );
});

test('random HTTP/2 frames from a proven peer end that tunnel at most', async () => {
  await using wire = await openWire();
  wire.onConnect = (connect) => connect.refuse(503);
  const cert = issue(wire.ca, CLIENT_ID);
  const frame = fc
    .tuple(
      fc.integer({ min: 0, max: 12 }),
      fc.integer({ min: 0, max: 255 }),
      fc.integer({ min: 0, max: 9 }),
      fc.uint8Array({ maxLength: 60 }),
    )
    .map(([type, flags, stream, body]) =>
      Buffer.concat([Buffer.from([0, 0, body.length, type, flags, 0, 0, 0, stream]), body]),
    );
  await fc.assert(
    fc.asyncProperty(fc.array(frame, { maxLength: 20 }), async (frames) => {
      const socket = connectTls({
        host: '127.0.0.1',
        port: wire.port,
        rejectUnauthorized: false,
        ALPNProtocols: ['h2'],
        servername: '',
        cert: cert.chainPem,
        key: cert.keyPem,
      });
      socket.on('error', () => undefined);
      await once(socket, 'secureConnect');
      socket.resume();
      await new Promise((resolve) =>
        socket.write(Buffer.concat([PREFACE, Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]), ...frames]), resolve),
      );
      socket.destroy();
    }),
    { numRuns: Math.min(RUNS, 200) },
  );
  const polite = await wire.tunnels.open(wire.request());
  assert.ok(!polite.ok);
  assert.equal(polite.reason, 'TUNNEL_UPSTREAM_FAILED');
});
