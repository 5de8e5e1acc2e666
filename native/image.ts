/**
 * What the image ships of this checkout: our code without its types, and the packages without what only their
 * developers read. Runs in the Dockerfile, on the pinned node: `node native/image.ts TARGET`, or, for other code alone,
 * `node native/image.ts TARGET FOLDER…`.
 *
 * Types are stripped here because node's own stripper, which development uses, stays resident with some 40 MB. It
 * writes blanks over types, so that every line and column of a stack trace is the source's.
 */
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';
import path from 'node:path';

const ROOT = path.join(import.meta.dirname, '..');
/** Folders whose TypeScript becomes JavaScript of the same name. */
const CODE = ['daemon', 'native/hot'];
/** What is taken as it is. The pinned node is there already; it must not be there twice. */
const AS_IS = ['package.json', 'LICENSE', 'native/bpf/prebuilt', 'native/hot/build/Release/hot.node'];
const NODE_PACKAGE = /^node-linux-/;
/** What node can load, and the texts that licences demand to come along. */
const LOADABLE = /\.(?:js|cjs|mjs|json|node|proto)$/;
const LICENCE = /^(?:licen[cs]e|copying|notice|copyright)\b/i;
/** In a package's own folder; intermediate objects of its native part. */
const FOR_DEVELOPERS = /^(?:tests?|examples?|docs?|benchmarks?|obj\.target)$/;
/** `from './x.ts'`, `import './x.ts'`, `import('./x.ts')`, `new URL('./x.ts', import.meta.url)`. */
const OUR_FILE = /((?:\bfrom|\bimport|\bimport\(|\bnew URL\()\s*'\.{1,2}\/[^'\n]*)\.ts'/g;

/** JavaScript of the same lines and columns, which imports its neighbours by their new names. */
export function toJavaScript(source: string): string {
  return stripTypeScriptTypes(source, { mode: 'strip' }).replace(OUR_FILE, "$1.js'");
}

/** Whether the image ships this file of node_modules, by its path inside. */
export function isShipped(file: string): boolean {
  const parts = file.split('/');
  const name = parts.at(-1) ?? '';
  const own = parts[0]?.startsWith('@') === true ? parts.slice(2) : parts.slice(1);
  if (parts.some((part) => NODE_PACKAGE.test(part))) return false;
  if (own.length > 1 && FOR_DEVELOPERS.test(own[0] ?? '')) return false;
  if (parts.includes('obj.target')) return false;
  return LOADABLE.test(name) || LICENCE.test(name);
}

/** Writes all of it below `target`. @throws Error when a file of ours would import one that is not there. */
export function assemble(target: string): void {
  shipCode(CODE, target);
  for (const one of AS_IS) cpSync(path.join(ROOT, one), path.join(target, one), { recursive: true });
  for (const file of filesBelow(path.join(ROOT, 'node_modules')))
    if (isShipped(file)) copy(path.join('node_modules', file), target);
}

function shipCode(folders: readonly string[], target: string): void {
  for (const folder of folders)
    for (const file of filesBelow(path.join(ROOT, folder)))
      if (file.endsWith('.ts')) ship(path.join(folder, file), target);
}

function ship(file: string, target: string): void {
  const code = stripped(file);
  for (const [, specifier] of code.matchAll(/'(\.{1,2}\/[^'\n]*\.(?:js|ts))'/g)) {
    const source = path.join(ROOT, path.dirname(file), (specifier ?? '').replace(/\.js$/, '.ts'));
    if (specifier?.endsWith('.ts') === true || !existsSync(source))
      throw new Error(`${file}: ${specifier ?? ''} would not be found in the image: teach native/image.ts`);
  }
  const to = path.join(target, file.replace(/\.ts$/, '.js'));
  mkdirSync(path.dirname(to), { recursive: true });
  writeFileSync(to, code);
}

function stripped(file: string): string {
  try {
    return toJavaScript(readFileSync(path.join(ROOT, file), 'utf8'));
  } catch (cause) {
    throw new Error(`${file} can't be stripped of its types`, { cause });
  }
}

function copy(file: string, target: string): void {
  const to = path.join(target, file);
  mkdirSync(path.dirname(to), { recursive: true });
  cpSync(path.join(ROOT, file), to);
}

/** Paths of all regular files, from `folder`. */
function filesBelow(folder: string): readonly string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => statSync(path.join(folder, name), { throwIfNoEntry: false })?.isFile() === true)
    .sort();
}

const [, self, target, ...folders] = process.argv;
if (self === import.meta.filename && target !== undefined) {
  if (folders.length === 0) assemble(target);
  else shipCode(folders, target);
}
