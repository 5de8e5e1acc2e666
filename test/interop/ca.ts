/**
 * A test CA: istio.v1.auth.IstioCertificateService/CreateCertificate over TLS (HBONE.md 4.4, PEERS.md), signing with
 * the root of the daemons' own local CA, so that they and a real ztunnel share a root. Run as a program it serves in
 * the network namespace that it was started in, until killed.
 */
import { Server, ServerCredentials, status } from '@grpc/grpc-js';
import type { sendUnaryData, ServerUnaryCall, ServiceDefinition } from '@grpc/grpc-js';
import protobuf from 'protobufjs';
import { join } from 'node:path';
import { X509Certificate } from 'node:crypto';
import { z } from 'zod';
import { LocalCa } from '../../daemon/identity/sources/local.ts';
import { verifyCsr } from '../../daemon/identity/csr.ts';
import { parseIp, parseTrustDomain } from '../../daemon/mesh/ids.ts';
import { LabProcess } from '../lab/kit/process.ts';
import type { Place } from '../lab/kit/process.ts';
import { serverCertificate } from './server-certificate.ts';

/** The port of istiod, which a ztunnel expects. */
export const CA_PORT = 15_012;
const MAX_MESSAGE_BYTES = 65_536;
const MAX_STREAMS = 16;
const MAX_LIFETIME_S = 86_400;

const Options = z.object({
  /** The local CA's folder: made when it is missing. */
  folder: z.string(),
  /** The one address that it serves at, and its certificate's SAN. */
  address: z.string(),
  /** Token → the only SPIFFE ID that its bearer can get. */
  tokens: z.record(z.string(), z.string()),
  /** Folders of other local CAs, whose roots its clients are told to trust, too. */
  alsoTrusts: z.array(z.string()),
});
export type CaOptions = z.infer<typeof Options>;

interface CsrRequest {
  readonly csr: string;
  /** Seconds. */
  readonly lifetime: number;
}
interface CsrResponse {
  readonly certChain: readonly string[];
}

/** Where a local CA's folder keeps its root. */
export const rootFile = (folder: string): string => join(folder, 'root.crt');

/** Starts the CA as a process at `place`. Resolves when it serves. */
export async function startCa(place: Place, options: CaOptions): Promise<LabProcess> {
  const argv = [process.execPath, import.meta.filename, JSON.stringify(options)];
  const started = await LabProcess.start(argv, place);
  await started.waitForLine('the CA to serve', (line) => line === 'serving' || undefined);
  return started;
}

async function serve(options: CaOptions): Promise<void> {
  const trustDomain = parseTrustDomain('cluster.local');
  const address = parseIp(options.address);
  if (trustDomain === undefined || address === undefined) throw new Error('the CA needs an IP address');
  const clock = { nowMs: () => Date.now() };
  const ca = await LocalCa.open({ folder: options.folder, trustDomain, clock });
  const own = await serverCertificate(options.folder, trustDomain, address);
  const roots = [await ca.roots()];
  for (const folder of options.alsoTrusts)
    roots.push(await (await LocalCa.open({ folder, trustDomain, clock })).roots());

  const server = new Server({
    'grpc.max_receive_message_length': MAX_MESSAGE_BYTES,
    'grpc.max_concurrent_streams': MAX_STREAMS,
  });
  const create = (call: ServerUnaryCall<CsrRequest, CsrResponse>, done: sendUnaryData<CsrResponse>): void => {
    try {
      const leaf = sign(ca, options.tokens, tokenOf(call), call.request);
      // The last element is the root bundle.
      done(null, { certChain: [leaf, roots.join('')] });
    } catch (error) {
      const details = error instanceof Error ? error.message : String(error);
      console.log(JSON.stringify({ refused: details }));
      done({ code: status.PERMISSION_DENIED, details });
    }
  };
  server.addService(SERVICE, { CreateCertificate: create });
  const key = { private_key: Buffer.from(own.keyPem), cert_chain: Buffer.from(own.chainPem) };
  await new Promise<void>((resolve, reject) => {
    server.bindAsync(`${address}:${CA_PORT}`, ServerCredentials.createSsl(null, [key]), (error) => {
      if (error === null) resolve();
      else reject(error);
    });
  });
  console.log('serving');
}

function tokenOf(call: ServerUnaryCall<CsrRequest, CsrResponse>): string {
  const [value] = call.metadata.get('authorization');
  return typeof value === 'string' ? value.replace(/^Bearer /, '') : '';
}

/** The leaf (PEM). @throws Error when the token's bearer may not have what the request asks for. */
function sign(
  ca: LocalCa,
  tokens: Readonly<Record<string, string>>,
  token: string,
  request: CsrRequest,
): string {
  const der = Buffer.from(request.csr.replace(/-----[A-Z ]+-----|\s/g, ''), 'base64');
  const asked = verifyCsr(der);
  if (!asked.ok) throw new Error(`the request is unusable: ${asked.detail}`);
  if (tokens[token] !== asked.id) throw new Error(`the token's bearer may not have ${asked.id}`);
  const lifetimeMs = 1_000 * Math.min(Math.max(request.lifetime, 60), MAX_LIFETIME_S);
  const leaf = ca.sign(der, asked.id, lifetimeMs);
  console.log(JSON.stringify({ issued: asked.id, serial: new X509Certificate(leaf).serialNumber }));
  return leaf;
}

// Of proto/citadel.proto: what is used here.
const Request = protobuf.Type.fromJSON('IstioCertificateRequest', {
  fields: { csr: { type: 'string', id: 1 }, lifetime: { type: 'int64', id: 3 } },
});
const Response = protobuf.Type.fromJSON('IstioCertificateResponse', {
  fields: { certChain: { rule: 'repeated', type: 'string', id: 1 } },
});
const PlainRequest = z.object({ csr: z.string(), lifetime: z.number() });
const PlainResponse = z.object({ certChain: z.array(z.string()) });

const SERVICE: ServiceDefinition = {
  CreateCertificate: {
    path: '/istio.v1.auth.IstioCertificateService/CreateCertificate',
    requestStream: false,
    responseStream: false,
    requestSerialize: (value: CsrRequest) => Buffer.from(Request.encode({ ...value }).finish()),
    requestDeserialize: (bytes: Buffer): CsrRequest =>
      PlainRequest.parse(Request.toObject(Request.decode(bytes), { longs: Number, defaults: true })),
    responseSerialize: (value: CsrResponse) => Buffer.from(Response.encode({ ...value }).finish()),
    responseDeserialize: (bytes: Buffer): CsrResponse =>
      PlainResponse.parse(Response.toObject(Response.decode(bytes), { arrays: true })),
  },
};

if (import.meta.main) await serve(Options.parse(JSON.parse(process.argv[2] ?? '')));
