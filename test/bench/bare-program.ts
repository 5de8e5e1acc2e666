/** What bare.ts measures: two empty workers, and the packages that the daemon's main thread imports. */
import { isMainThread, Worker } from 'node:worker_threads';

const PACKAGES: readonly string[] = [
  '@peculiar/asn1-csr',
  '@peculiar/asn1-schema',
  '@peculiar/asn1-x509',
  'commander',
  'ffi-napi',
  'ipaddr.js',
  'pino',
  'prom-client',
  'yaml',
  'zod',
];

// A timer keeps the thread alive.
setInterval(() => undefined, 60_000);
if (isMainThread) {
  for (const name of PACKAGES) await import(name);
  for (let started = 0; started < 2; started++) {
    const worker = new Worker(new URL(import.meta.url));
    await new Promise((resolve) => worker.once('online', resolve));
  }
  console.log('ready');
}
