/** Rules in their order, found by what they can match: a decision looks at few, whatever their number. */
import type { CompiledRule } from './compile.ts';
import type { HttpRequest, PolicyRequest } from './model.ts';

interface Placed {
  readonly rule: CompiledRule;
  readonly order: number;
}

const NONE: readonly Placed[] = [];

export class RuleIndex {
  readonly rules: readonly CompiledRule[];
  /** By the narrowest thing that a rule names literally; each rule stands in one of these only. */
  readonly #byPrincipal = new Map<string, Placed[]>();
  readonly #byAccount = new Map<string, Placed[]>();
  readonly #byNamespace = new Map<string, Placed[]>();
  readonly #byPath = new Map<string, Placed[]>();
  /** Length of the prefix → prefix → rules. */
  readonly #byPrefix = new Map<number, Map<string, Placed[]>>();
  /** Name → value → rules. */
  readonly #byHeader = new Map<string, Map<string, Placed[]>>();
  /** All that stand by path or header: bytes that are not HTTP may match any of them. */
  readonly #byRequest: Placed[] = [];
  readonly #byPort = new Map<number, Placed[]>();
  readonly #others: Placed[] = [];

  constructor(rules: readonly CompiledRule[]) {
    this.rules = rules;
    for (const [order, rule] of rules.entries()) this.#place({ rule, order });
  }

  /** The first rule, in their order, that `test` takes. @param denies what is not HTTP matches as if it were. */
  first(
    request: PolicyRequest,
    test: (rule: CompiledRule) => boolean,
    denies: boolean,
  ): CompiledRule | undefined {
    const { peer, http } = request;
    let best = firstOf(this.#others, test, undefined);
    if (http !== undefined) best = this.#firstOfRequest(http, test, best);
    else if (denies) best = firstOf(this.#byRequest, test, best);
    best = firstOf(this.#byPort.get(request.destinationPort) ?? NONE, test, best);
    if (peer === undefined) return best?.rule;
    best = firstOf(this.#byNamespace.get(peer.namespace) ?? NONE, test, best);
    best = firstOf(this.#byAccount.get(peer.account) ?? NONE, test, best);
    return firstOf(this.#byPrincipal.get(peer.principal) ?? NONE, test, best)?.rule;
  }

  #firstOfRequest(
    { path, headers }: HttpRequest,
    test: (rule: CompiledRule) => boolean,
    known: Placed | undefined,
  ): Placed | undefined {
    let best = firstOf(this.#byPath.get(path) ?? NONE, test, known);
    for (const [length, prefixes] of this.#byPrefix)
      best = firstOf(prefixes.get(path.slice(0, length)) ?? NONE, test, best);
    for (const [name, values] of this.#byHeader)
      best = firstOf(values.get(headers.get(name) ?? '') ?? NONE, test, best);
    return best;
  }

  #place(placed: Placed): void {
    const { principals, accounts, namespaces, ports, paths, header } = placed.rule;
    if (principals !== undefined) file(this.#byPrincipal, principals, placed);
    else if (accounts !== undefined) file(this.#byAccount, accounts, placed);
    else if (namespaces !== undefined) file(this.#byNamespace, namespaces, placed);
    else if (paths !== undefined) this.#placeByPath(placed, paths);
    else if (header !== undefined) {
      this.#byRequest.push(placed);
      file(inner(this.#byHeader, header.name), header.values, placed);
    } else if (ports !== undefined) file(this.#byPort, ports, placed);
    else this.#others.push(placed);
  }

  #placeByPath(placed: Placed, paths: ReadonlySet<string>): void {
    this.#byRequest.push(placed);
    for (const path of paths) {
      if (!path.endsWith('*')) file(this.#byPath, [path], placed);
      else file(inner(this.#byPrefix, path.length - 1), [path.slice(0, -1)], placed);
    }
  }
}

function inner<K, V>(index: Map<K, Map<string, V[]>>, key: K): Map<string, V[]> {
  const known = index.get(key);
  if (known !== undefined) return known;
  const made = new Map<string, V[]>();
  index.set(key, made);
  return made;
}

function file<K>(index: Map<K, Placed[]>, keys: Iterable<K>, placed: Placed): void {
  for (const key of keys) {
    const list = index.get(key);
    if (list === undefined) index.set(key, [placed]);
    else list.push(placed);
  }
}

/** The lists are in order: what comes behind the best one so far is not looked at. */
function firstOf(
  list: readonly Placed[],
  test: (rule: CompiledRule) => boolean,
  best: Placed | undefined,
): Placed | undefined {
  for (const placed of list) {
    if (best !== undefined && placed.order > best.order) return best;
    if (test(placed.rule)) return placed;
  }
  return best;
}
