/** An explanation as a person reads it. */
import type { Colour } from '../table.ts';
import { paint, printable, table } from '../table.ts';
import type { Explanation, NearRule } from './explain.ts';
import type { WrittenRef } from './batch.ts';

/** Rules shown; `--json` has more. */
const MAX_SHOWN = 12;
const MAX_NAMES = 8;

/** The verdict, who is who, and the rules that matched or came close. Ends with a newline. */
export function whyText(one: Explanation, doubts: readonly string[], colour: boolean): string {
  const isAllowed = one.verdict === 'allow';
  const hue: Colour = isAllowed ? 'green' : 'red';
  const head = `${paint(isAllowed ? 'ALLOWED' : 'DENIED', colour ? hue : undefined)}: ${printable(one.why)}`;
  const facts: (readonly [string, string])[] = [
    ['source', sourceText(one.source)],
    ['destination', `${one.destination.name} port ${one.port}, ${one.destination.state}`],
    [
      'mutual TLS',
      `${one.mtls.mode.toUpperCase()}, by ${one.mtls.by === null ? "the mesh's default" : refText(one.mtls.by)}`,
    ],
  ];
  if (!one.enforced) facts.push(['policies', `would say ${one.policies.verdict}: ${one.policies.why}`]);
  if (one.dryRun !== null) facts.push(['dry run', `would ${one.dryRun.verdict}: ${one.dryRun.why}`]);
  if (one.notSelecting.length > 0) facts.push(['not about it', namesText(one.notSelecting)]);
  for (const note of [...one.notes, ...doubts]) facts.push(['note', note]);
  const lines = facts.map(([name, text]) => printable(`${name.padEnd(13)} ${text}`));
  return `${[head, ...lines].join('\n')}\n${rulesText(one.rules, colour)}`;
}

function sourceText({ name, identity, ip, state }: Explanation['source']): string {
  const who = identity ?? 'plaintext, no identity';
  const parts = [name, who, ip].filter((part) => part !== null);
  return `${parts.join(', ')}${name === null ? '' : `, ${state}`}`;
}

function refText({ kind, namespace, name }: WrittenRef): string {
  return `${kind} ${namespace}/${name}`;
}

function namesText(names: readonly string[]): string {
  const more = names.length > MAX_NAMES ? ` and ${names.length - MAX_NAMES} more` : '';
  return `${names.slice(0, MAX_NAMES).join(', ')}${more} (selector, or for waypoints)`;
}

function rulesText(rules: readonly NearRule[], colour: boolean): string {
  if (rules.length === 0) return '\nno rule of an AuthorizationPolicy applies to it\n';
  const rows = rules
    .slice(0, MAX_SHOWN)
    .map((rule) => [
      rule.policy,
      String(rule.rule),
      rule.dryRun ? `${rule.action} (dry run)` : rule.action,
      { text: rule.matches ? 'yes' : 'no', colour: rule.matches ? ('green' as const) : ('yellow' as const) },
      rule.failing.join('; '),
    ]);
  const more = rules.length > MAX_SHOWN ? `and ${rules.length - MAX_SHOWN} more: see --json\n` : '';
  return `\n${table(['POLICY', 'RULE', 'ACTION', 'MATCHES', 'FAILS ON'], rows, colour)}${more}`;
}
