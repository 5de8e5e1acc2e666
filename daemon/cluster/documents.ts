/** The text of one file of the folder → its objects, with the line of everything that is wrong. Pure. */
import { LineCounter, isNode, parseAllDocuments } from 'yaml';
import type { Document } from 'yaml';
import type { Delta } from '../mesh/model.ts';
import type { JsonPath, ObjectProblem } from './fields.ts';
import { objectsIn, translate } from './objects.ts';

/** One sentence about one line of a file. */
export interface LineProblem {
  readonly line: number | undefined;
  readonly reason: string;
}

/** One object of a file. */
export type FileObject =
  | {
      readonly kind: 'object';
      readonly id: string;
      readonly title: string;
      readonly line: number | undefined;
      readonly delta: Delta | undefined;
    }
  /** Broken; `id` says which one it was, if that can be told. */
  | { readonly kind: 'invalid'; readonly id: string | undefined };

/** What a file holds. `isBroken`: it is no YAML, so nothing can be said of its objects. */
export interface FileContent {
  readonly isBroken: boolean;
  /** Broken, and it names a kind of policy. */
  readonly hidesPolicies?: boolean;
  readonly objects: readonly FileObject[];
  readonly problems: readonly LineProblem[];
}

/** One document of a file and where its parts stand. */
export interface ParsedDocument {
  readonly value: unknown;
  readonly lineOf: (path: JsonPath) => number | undefined;
}

export type ParsedText =
  | { readonly ok: true; readonly documents: readonly ParsedDocument[] }
  | { readonly ok: false; readonly problem: LineProblem };

/** Aliases that one document may resolve: manifests use a handful, a bomb millions. */
const MAX_ALIASES = 100;
/** Problems told of one file. */
const MAX_PROBLEMS = 50;
const POLICIES = /AuthorizationPolicy|PeerAuthentication/;

/** The objects in `text`. JSON is YAML too; `isJson` only makes it quicker. */
export function readObjects(text: string, isJson: boolean): FileContent {
  const quick = isJson ? readJson(text) : undefined;
  if (quick !== undefined) return quick;
  const parsed = parseText(text);
  return parsed.ok
    ? contentOf(parsed.documents)
    : { isBroken: true, hidesPolicies: POLICIES.test(text), objects: [], problems: [parsed.problem] };
}

/** JSON that has nothing wrong; undefined otherwise, for YAML's parser knows the lines. */
function readJson(text: string): FileContent | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  const content = contentOf([{ value, lineOf: () => undefined }]);
  return content.problems.length === 0 ? content : undefined;
}

/** The YAML documents in `text`, of which one may be broken: then none counts. */
export function parseText(text: string): ParsedText {
  const lineCounter = new LineCounter();
  const lineAt = (offset: number): number => lineCounter.linePos(offset).line;
  try {
    const parsed = parseAllDocuments(text, {
      lineCounter,
      prettyErrors: false,
      logLevel: 'silent',
      merge: true,
    });
    const documents = Array.isArray(parsed) ? parsed : [];
    for (const { errors } of documents) {
      const [error] = errors;
      if (error !== undefined)
        return { ok: false, problem: { line: lineAt(error.pos[0]), reason: brief(error.message) } };
    }
    return { ok: true, documents: documents.map((document) => toParsed(document, lineAt)) };
  } catch (error) {
    // An alias bomb (ReferenceError), or nesting deeper than the stack (RangeError).
    const reason = error instanceof RangeError ? 'is nested too deeply' : brief(String(error));
    return { ok: false, problem: { line: undefined, reason } };
  }
}

function toParsed(document: Document, lineAt: (offset: number) => number): ParsedDocument {
  return {
    value: document.toJS({ maxAliasCount: MAX_ALIASES }),
    lineOf: (path) => {
      for (let length = path.length; length >= 0; length--) {
        const node = length === 0 ? document.contents : document.getIn(path.slice(0, length), true);
        if (isNode(node) && node.range) return lineAt(node.range[0]);
      }
      return undefined;
    },
  };
}

function contentOf(documents: readonly ParsedDocument[]): FileContent {
  const objects: FileObject[] = [];
  const problems: LineProblem[] = [];
  for (const document of documents)
    for (const { path, value } of objectsIn(document.value)) {
      const translation = translate(value);
      if (translation.kind === 'foreign') continue;
      const isObject = translation.kind === 'object';
      const wrong = isObject ? translation.notes : translation.problems;
      for (const problem of wrong) {
        if (problems.length < MAX_PROBLEMS) problems.push(locate(document, path, translation.title, problem));
      }
      const line = document.lineOf(path);
      objects.push(
        isObject
          ? { kind: 'object', id: translation.id, title: translation.title, line, delta: translation.delta }
          : { kind: 'invalid', id: translation.id },
      );
    }
  return { isBroken: false, objects, problems };
}

function locate(
  document: ParsedDocument,
  base: JsonPath,
  title: string,
  { path, reason }: ObjectProblem,
): LineProblem {
  return { line: document.lineOf([...base, ...path]), reason: `${title}: ${pathText(path)}${reason}` };
}

/** `spec.containers[0].name: `, or nothing for the object itself. */
export function pathText(path: JsonPath): string {
  const text = path
    .map((step) =>
      typeof step === 'number' ? `[${step}]` : /^[\w-]+$/.test(step) ? `.${step}` : `["${step}"]`,
    )
    .join('');
  return text === '' ? '' : `${text.replace(/^\./, '')}: `;
}

function brief(message: string): string {
  return (message.split('\n', 1)[0] ?? '').slice(0, 300);
}
