/** Rules in their order, found by what they can match: a decision looks at few, whatever their number. */
import type { CompiledRule } from './compile.ts';
import type { PolicyRequest } from './model.ts';

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
  readonly #byPort = new Map<number, Placed[]>();
  readonly #others: Placed[] = [];

  constructor(rules: readonly CompiledRule[]) {
    this.rules = rules;
    for (const [order, rule] of rules.entries()) this.#place({ rule, order });
  }

  /** The first rule, in their order, that `test` takes. */
  first(request: PolicyRequest, test: (rule: CompiledRule) => boolean): CompiledRule | undefined {
    const { peer } = request;
    let best = firstOf(this.#others, test, undefined);
    best = firstOf(this.#byPort.get(request.destinationPort) ?? NONE, test, best);
    if (peer === undefined) return best?.rule;
    best = firstOf(this.#byNamespace.get(peer.namespace) ?? NONE, test, best);
    best = firstOf(this.#byAccount.get(peer.account) ?? NONE, test, best);
    return firstOf(this.#byPrincipal.get(peer.principal) ?? NONE, test, best)?.rule;
  }

  #place(placed: Placed): void {
    const { principals, accounts, namespaces, ports } = placed.rule;
    if (principals !== undefined) file(this.#byPrincipal, principals, placed);
    else if (accounts !== undefined) file(this.#byAccount, accounts, placed);
    else if (namespaces !== undefined) file(this.#byNamespace, namespaces, placed);
    else if (ports !== undefined) file(this.#byPort, ports, placed);
    else this.#others.push(placed);
  }
}

function file<K>(index: Map<K, Placed[]>, keys: ReadonlySet<K>, placed: Placed): void {
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
