/**
 * The local CA's folder: root.key and root.crt. Daemons may start on it at the same instant and may die at any
 * point, so there is no lock to be left behind: each file is written beside and link(2)ed to its name, which the
 * first one wins; key first, then the certificate, which any daemon can make from the key.
 */
import { createPrivateKey, createPublicKey, randomBytes, X509Certificate } from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import { link, lstat, mkdir, open, readFile, unlink } from 'node:fs/promises';
import type { Stats } from 'node:fs';
import { join } from 'node:path';
import { AsnParser } from '@peculiar/asn1-schema';
import { SubjectAlternativeName, id_ce_keyUsage, id_ce_subjectAltName } from '@peculiar/asn1-x509';
import { MeshError } from '../../errors.ts';
import type { TrustDomain } from '../../mesh/ids.ts';
import { keyPem, makeKeyPair, toPem } from '../csr.ts';
import { KEY_USAGE, keyUsageBits, octets, parseCertificate } from '../extensions.ts';
import { makeRoot } from '../issue.ts';
import { excerpt } from '../text.ts';

const FOLDER_MODE = 0o700;
const FILE_MODE = 0o600;
/** Rights that nobody else may have: any on the folder and the key, writing on the certificate. */
const ANY_BY_OTHERS = 0o077;
const WRITE_BY_OTHERS = 0o022;
const MAX_FILE_BYTES = 65_536;
const ROOT_LIFETIME_MS = 10 * 365 * 86_400_000;
/** Other nodes' clocks may be behind the one that made the root. */
const ROOT_BACKDATE_MS = 3_600_000;
const SECOND = 1_000;

export interface LocalRoot {
  readonly root: X509Certificate;
  readonly key: KeyObject;
}

/**
 * The root in `folder`, made when the folder is missing or empty.
 * @throws MeshError CA_FOLDER_INVALID naming the file and the fix.
 */
export async function openFolder(
  folder: string,
  trustDomain: TrustDomain,
  nowMs: number,
): Promise<LocalRoot> {
  const keyPath = join(folder, 'root.key');
  const certificatePath = join(folder, 'root.crt');
  await prepareFolder(folder);
  const existing = await readOwn(certificatePath, WRITE_BY_OTHERS);
  const key = await readKey(keyPath, existing === undefined);
  const text = existing ?? (await createCertificate(certificatePath, key, trustDomain, nowMs));
  const root = parseRoot(certificatePath, text);
  judgeRoot(certificatePath, root, trustDomain, nowMs);
  if (!root.checkPrivateKey(key))
    throw invalid(
      keyPath,
      `it is not the key of ${certificatePath}`,
      'put back the pair that belongs together',
    );
  return { root, key };
}

async function prepareFolder(folder: string): Promise<void> {
  try {
    await mkdir(folder, { recursive: true, mode: FOLDER_MODE });
  } catch (error) {
    throw invalid(folder, 'it can not be made', 'choose another --ca-dir', error);
  }
  const stats = await lstat(folder);
  if (!stats.isDirectory()) throw invalid(folder, 'it is not a folder', 'choose another --ca-dir');
  demandPrivate(folder, stats, ANY_BY_OTHERS, '700');
}

/** The key in `path`; made when it is missing and `mayCreate`. */
async function readKey(path: string, mayCreate: boolean): Promise<KeyObject> {
  let text = await readOwn(path, ANY_BY_OTHERS);
  if (text === undefined && !mayCreate)
    throw invalid(
      path,
      'it is missing, but root.crt is there',
      'put it back, or remove root.crt for a new root',
    );
  if (text === undefined) {
    const made = await makeKeyPair();
    text = await publish(path, keyPem(made.privateKey));
  }
  return parseKey(path, text);
}

function parseKey(path: string, text: string): KeyObject {
  const fix = 'put back the P-256 key, or empty the folder for a new root';
  let key: KeyObject;
  try {
    key = createPrivateKey(text);
  } catch {
    // Without the cause: nothing of a key file goes into an error.
    throw invalid(path, 'it is no private key in PEM', fix);
  }
  if (key.asymmetricKeyDetails?.namedCurve !== 'prime256v1') throw invalid(path, 'it is no P-256 key', fix);
  return key;
}

async function createCertificate(
  path: string,
  key: KeyObject,
  trustDomain: TrustDomain,
  nowMs: number,
): Promise<string> {
  const wholeMs = Math.floor(nowMs / SECOND) * SECOND;
  const keys = { privateKey: key, publicKey: createPublicKey(key) };
  const der = makeRoot(keys, trustDomain, wholeMs - ROOT_BACKDATE_MS, wholeMs + ROOT_LIFETIME_MS);
  return await publish(path, toPem('CERTIFICATE', der));
}

function parseRoot(path: string, text: string): X509Certificate {
  try {
    return new X509Certificate(text);
  } catch (error) {
    throw invalid(
      path,
      'it is no certificate in PEM',
      'put it back, or empty the folder for a new root',
      error,
    );
  }
}

function judgeRoot(path: string, root: X509Certificate, trustDomain: TrustDomain, nowMs: number): void {
  const fix = 'put a valid root in its place, or empty the folder for a new one';
  if (!root.ca || !maySign(path, root)) throw invalid(path, 'it is no CA certificate', fix);
  if (!root.checkIssued(root) || !root.verify(root.publicKey))
    throw invalid(path, 'it is not self-signed', fix);
  if (nowMs > root.validToDate.getTime()) throw invalid(path, `it expired at ${root.validTo}`, fix);
  if (nowMs < root.validFromDate.getTime())
    throw invalid(path, `it is not valid before ${root.validFrom}`, "set the machine's clock");
  const uri = uriOf(path, root);
  if (uri !== undefined && uri !== `spiffe://${trustDomain}`)
    throw invalid(
      path,
      `it is the root of ${excerpt(uri)}, not of ${trustDomain}`,
      'set --trust-domain to its own',
    );
}

function maySign(path: string, root: X509Certificate): boolean {
  const usage = extensionOf(path, root, id_ce_keyUsage);
  return usage === undefined || (keyUsageBits(usage) & KEY_USAGE.keyCertSign) !== 0;
}

function uriOf(path: string, root: X509Certificate): string | undefined {
  const extension = extensionOf(path, root, id_ce_subjectAltName);
  if (extension === undefined) return undefined;
  const names = AsnParser.parse(octets(extension), SubjectAlternativeName);
  return names.find((name) => name.uniformResourceIdentifier !== undefined)?.uniformResourceIdentifier;
}

function extensionOf(path: string, root: X509Certificate, oid: string) {
  try {
    const { extensions } = parseCertificate(root.raw).tbsCertificate;
    return extensions?.find((extension) => extension.extnID === oid);
  } catch (error) {
    throw invalid(path, 'its encoding is not DER', 'make the root anew with another tool', error);
  }
}

/** The text of a file of ours on which others do not have the rights `forbidden`, or undefined when there is none. */
async function readOwn(path: string, forbidden: number): Promise<string | undefined> {
  let stats: Stats;
  try {
    stats = await lstat(path);
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw invalid(path, 'it can not be looked at', 'check the file system', error);
  }
  if (!stats.isFile()) throw invalid(path, 'it is not a regular file', 'put the file itself in its place');
  if (stats.size > MAX_FILE_BYTES) throw invalid(path, 'it is too large', 'put the right file in its place');
  demandPrivate(path, stats, forbidden, '600');
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw invalid(path, 'it can not be read', 'check the file system', error);
  }
}

function demandPrivate(path: string, stats: Stats, forbidden: number, mode: string): void {
  if ((stats.mode & forbidden) !== 0)
    throw invalid(path, 'others than its owner have rights on it', `chmod ${mode} ${path}`);
  const us = process.geteuid?.();
  if (us !== undefined && stats.uid !== us)
    throw invalid(path, `it belongs to user ${stats.uid}, not to us (${us})`, `chown ${us} ${path}`);
}

/** Puts `text` at `path` unless another was faster; returns what stands there then. */
async function publish(path: string, text: string): Promise<string> {
  const draft = `${path}.${randomBytes(8).toString('hex')}.tmp`;
  try {
    const file = await open(draft, 'wx', FILE_MODE);
    try {
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
    await link(draft, path);
  } catch (error) {
    if (!isTaken(error)) throw invalid(path, 'it can not be written', 'check space and rights', error);
  } finally {
    await unlink(draft).catch(() => undefined);
  }
  const standing = await readOwn(path, ANY_BY_OTHERS);
  if (standing === undefined) throw invalid(path, 'it vanished while we wrote it', 'start again');
  return standing;
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT';
}

function isTaken(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'EEXIST';
}

function invalid(path: string, what: string, fix: string, cause?: unknown): MeshError {
  const why = cause === undefined ? '' : ` (${excerpt(cause)})`;
  return new MeshError('CA_FOLDER_INVALID', `the local CA can not use ${path}: ${what}${why}. Fix: ${fix}.`, {
    cause,
  });
}
