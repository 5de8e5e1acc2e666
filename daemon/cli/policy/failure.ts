/** Why one field of a rule does not hold, with what it wants and what there is. */
import type { AuthorizationPolicy, FieldValues, PolicyRequest } from '../../mesh/policy/model.ts';

/** Values shown of one field. */
const MAX_SHOWN = 3;

/** A sentence for `name`, as mesh/policy/evaluate.ts `missing` gives it: `principals`, `notPaths`, `request.headers[x]`. */
export function failure(
  name: string,
  policy: AuthorizationPolicy | undefined,
  index: number | undefined,
  asked: PolicyRequest,
): string {
  const rule = policy?.rules.find((one) => one.index === index);
  const all = rule === undefined ? [] : [...rule.from, ...rule.to, rule.when].flat();
  for (const field of all) {
    const base = nameOf(field);
    if (name === base && field.values !== undefined)
      return `${base}: ${actual(field, asked)} is none of ${shown(wanted(all, field))}`;
    if (name === notOf(base) && field.notValues !== undefined)
      return `${name}: ${actual(field, asked)} is one of ${shown(field.notValues)}`;
  }
  return name;
}

/** In several entries the same field may stand: all that would have done. */
function wanted(all: readonly FieldValues[], one: FieldValues): readonly string[] {
  const same = all.filter(({ field, header }) => field === one.field && header === one.header);
  return [...new Set(same.flatMap(({ values }) => values ?? []))];
}

function nameOf({ field, header }: FieldValues): string {
  return header === undefined ? field : `request.headers[${header}]`;
}

function notOf(name: string): string {
  return `not${name.charAt(0).toUpperCase()}${name.slice(1)}`;
}

function shown(values: readonly string[]): string {
  const more = values.length > MAX_SHOWN ? ` and ${values.length - MAX_SHOWN} more` : '';
  return `${values.slice(0, MAX_SHOWN).join(', ')}${more}`;
}

function actual({ field, header }: FieldValues, asked: PolicyRequest): string {
  const { peer, http } = asked;
  switch (field) {
    case 'principals':
      return peer?.principal ?? 'plaintext';
    case 'namespaces':
      return peer?.namespace ?? 'plaintext';
    case 'serviceAccounts':
      return peer?.account ?? 'plaintext';
    case 'trustDomains':
      return peer?.trustDomain ?? 'plaintext';
    case 'ipBlocks':
    case 'remoteIpBlocks':
      return asked.sourceIp ?? 'an unknown address';
    case 'destinationIps':
      return asked.destinationIp ?? 'an unknown address';
    case 'ports':
      return String(asked.destinationPort);
    case 'sni':
      return asked.sni ?? 'no server name';
    case 'hosts':
      return http?.host ?? 'no host';
    case 'methods':
      return http?.method ?? 'no request';
    case 'paths':
      return http?.path ?? 'no request';
    case 'header':
      return http?.headers.get(header ?? '') ?? 'no such header';
    case 'requestPrincipals':
    case 'absent':
      return 'what is never there';
  }
}
