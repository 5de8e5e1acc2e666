/** Reads daemon/ as TypeScript's own parser sees it, for the rules that no other tool holds. */
import { readFileSync, readdirSync } from 'node:fs';
import { join, posix } from 'node:path';
import ts from 'typescript';

export const ROOT = join(import.meta.dirname, '../..');

export interface Import {
  /** As written. */
  readonly specifier: string;
  /** From the root (`daemon/mesh/ids.ts`), or undefined for a package. */
  readonly file: string | undefined;
  readonly line: number;
  readonly typeOnly: boolean;
  /** `import()`. */
  readonly lazy: boolean;
}

export interface Source {
  /** From the root, `daemon/mesh/ids.ts`. */
  readonly path: string;
  readonly lines: number;
  readonly imports: readonly Import[];
  /** `any`, `!`, default exports, enums and the like: what and where. */
  readonly oddities: readonly string[];
}

/** Every TypeScript file below `folder`. */
export function readSources(folder: string): readonly Source[] {
  return readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts') && !name.endsWith('.d.ts'))
    .map((name) => parseSource(posix.join(folder, name), readFileSync(join(ROOT, folder, name), 'utf8')))
    .sort((a, b) => (a.path < b.path ? -1 : 1));
}

/** One file; `text` is its content. */
export function parseSource(path: string, text: string): Source {
  const tree = ts.createSourceFile(path, text, ts.ScriptTarget.ESNext, true);
  const imports: Import[] = [];
  const oddities: string[] = [];
  const lineOf = (node: ts.Node): number => tree.getLineAndCharacterOfPosition(node.getStart(tree)).line + 1;
  const visit = (node: ts.Node): void => {
    const found = importOf(node);
    if (found !== undefined)
      imports.push({ ...found, file: resolve(path, found.specifier), line: lineOf(node) });
    const odd = oddityOf(node);
    if (odd !== undefined) oddities.push(`${path}:${lineOf(node)}: ${odd}`);
    ts.forEachChild(node, visit);
  };
  visit(tree);
  return { path, lines: text.trimEnd().split('\n').length, imports, oddities };
}

function importOf(node: ts.Node): Pick<Import, 'specifier' | 'typeOnly' | 'lazy'> | undefined {
  if ((ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) && node.moduleSpecifier !== undefined) {
    if (!ts.isStringLiteral(node.moduleSpecifier)) return undefined;
    const typeOnly = ts.isExportDeclaration(node)
      ? node.isTypeOnly
      : node.importClause?.phaseModifier === ts.SyntaxKind.TypeKeyword;
    return { specifier: node.moduleSpecifier.text, typeOnly, lazy: false };
  }
  if (!ts.isCallExpression(node) || node.expression.kind !== ts.SyntaxKind.ImportKeyword) return undefined;
  const [specifier] = node.arguments;
  // An import() whose target can't be read is treated as one of something that nobody may import.
  const text = specifier !== undefined && ts.isStringLiteral(specifier) ? specifier.text : './(computed)';
  return { specifier: text, typeOnly: false, lazy: true };
}

function resolve(from: string, specifier: string): string | undefined {
  return specifier.startsWith('.') ? posix.join(posix.dirname(from), specifier) : undefined;
}

function oddityOf(node: ts.Node): string | undefined {
  if (node.kind === ts.SyntaxKind.AnyKeyword) return '`any`: use `unknown` and parse it';
  if (ts.isNonNullExpression(node)) return 'non-null `!`: handle the missing case';
  if (ts.isEnumDeclaration(node)) return 'enum: use a union of literals';
  if (ts.isModuleDeclaration(node)) return 'namespace: use a file';
  if (ts.isExportAssignment(node)) return 'default export: export by name';
  const isDefault =
    ts.canHaveModifiers(node) &&
    ts.getModifiers(node)?.some((modifier) => modifier.kind === ts.SyntaxKind.DefaultKeyword);
  return isDefault === true ? 'default export: export by name' : undefined;
}
