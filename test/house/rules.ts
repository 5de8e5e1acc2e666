/** Who may import whom: DESIGN section 2, as a table and three pure functions. */
import type { Import, Source } from './sources.ts';

/** The only files that join the rooms. */
const JOINERS: ReadonlySet<string> = new Set([
  'daemon/main.ts',
  'daemon/ca.ts',
  'daemon/proxy/worker.ts',
  'daemon/capture/thread.ts',
]);

/** Room → rooms it may import besides itself; `types of X` allows `import type` only. */
const ALLOWED: Readonly<Record<string, readonly string[]>> = {
  errors: [],
  knob: ['mesh'],
  config: ['errors', 'knob'],
  mesh: ['errors'],
  observe: ['errors', 'mesh', 'types of config'],
  kube: ['errors', 'observe', 'types of config'],
  cluster: ['errors', 'mesh', 'observe', 'kube', 'types of config'],
  identity: ['errors', 'mesh', 'observe', 'kube', 'types of config'],
  capture: ['errors', 'mesh', 'observe', 'native/hot', 'types of config'],
  proxy: ['errors', 'mesh', 'observe', 'native/hot', 'types of config'],
  admin: ['errors', 'mesh', 'observe', 'kube', 'types of config'],
  cli: ['errors', 'mesh', 'config', 'version', 'kube'],
};

/** What `culvert` loads when a command is called, and may not import otherwise. */
const LAZY: Readonly<Record<string, readonly string[]>> = {
  'daemon/cli/entry-points.ts': [
    'daemon/main.ts',
    'daemon/ca.ts',
    'daemon/capture/preflight.ts',
    'daemon/capture/cleanup.ts',
    'daemon/kube/client.ts',
    'daemon/cluster/manifests.ts',
    'daemon/identity/chain.ts',
  ],
};

/** Packages that one place alone may know. */
const PACKAGE_HOMES: readonly (readonly [RegExp, string])[] = [
  [/^(ffi-napi|ref-napi|@2060\.io\/)/, 'daemon/capture/libbpf.ts'],
  [/^prom-client$/, 'daemon/observe/metrics.ts'],
  [/^pino$/, 'daemon/observe/log.ts'],
  [/^commander$/, 'daemon/cli/'],
  [/^@kubernetes\/client-node/, 'daemon/kube/'],
];

/** `daemon/mesh/policy/x.ts` → `mesh`; `daemon/config.ts` → `config`; `native/hot/x.ts` → `native/hot`. */
export function roomOf(path: string): string {
  const [top, room, ...rest] = path.split('/');
  if (top === 'native') return `native/${room ?? ''}`;
  return rest.length === 0 ? (room ?? '').replace(/\.ts$/, '') : (room ?? '');
}

/** One sentence for each import of `source` that the rule forbids. */
export function forbiddenImports(source: Source): readonly string[] {
  return source.imports.flatMap((one) => {
    const why =
      one.file === undefined ? packageProblem(source, one.specifier) : fileProblem(source, one, one.file);
    return why === undefined ? [] : [`${source.path}:${one.line}: imports ${one.specifier}: ${why}`];
  });
}

function packageProblem({ path }: Source, specifier: string): string | undefined {
  const home = PACKAGE_HOMES.find(([pattern]) => pattern.test(specifier))?.[1];
  return home === undefined || path.startsWith(home) ? undefined : `only ${home} may`;
}

function fileProblem(source: Source, { lazy, typeOnly }: Import, file: string): string | undefined {
  if (JOINERS.has(source.path)) return undefined;
  if (lazy)
    return LAZY[source.path]?.includes(file) === true
      ? undefined
      : 'import() is for the commands of cli/entry-points.ts';
  const [from, to] = [roomOf(source.path), roomOf(file)];
  if (JOINERS.has(file) && from !== to) return `${file} joins the rooms; nobody imports it`;
  if (from === to) return undefined;
  const allowed = ALLOWED[from];
  if (allowed === undefined) return `the room ${from} has no line in the table of test/house/rules.ts`;
  if (allowed.includes(to) || (typeOnly && allowed.includes(`types of ${to}`))) return undefined;
  return `${from} may import ${[from, ...allowed].join(', ')} only; let main.ts join the two through an interface`;
}

/** Each cycle of imports once, as the list of its files; `import()` does not count. */
export function cycles(sources: readonly Source[]): readonly (readonly string[])[] {
  const edges = new Map(
    sources.map(({ path, imports }) => [
      path,
      imports.flatMap(({ file, lazy }) => (file === undefined || lazy ? [] : [file])),
    ]),
  );
  const done = new Set<string>();
  const found: string[][] = [];
  const walk = (path: string, trail: readonly string[]): void => {
    const start = trail.indexOf(path);
    if (start >= 0) found.push([...trail.slice(start), path]);
    if (start >= 0 || done.has(path)) return;
    for (const next of edges.get(path) ?? []) walk(next, [...trail, path]);
    done.add(path);
  };
  for (const path of edges.keys()) walk(path, []);
  return found;
}
