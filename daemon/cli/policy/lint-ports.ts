/** What is known of a workload's ports: declared by containers, named by Services, or by everybody's habit. */
import { hasLabels } from './world.ts';
import type { LintService, LintServicePort, LintWorkload, World } from './world.ts';

/** Where policies apply: labels in a namespace, or in all (undefined). */
export interface Scope {
  readonly namespace: string | undefined;
  readonly selector: Readonly<Record<string, string>>;
}

/** Ports on which nobody speaks HTTP in the clear. */
const WELL_KNOWN: Readonly<Record<number, string>> = {
  22: 'SSH',
  25: 'SMTP',
  53: 'DNS',
  389: 'LDAP',
  443: 'TLS',
  636: 'LDAP over TLS',
  1433: 'SQL Server',
  1521: 'Oracle',
  3306: 'MySQL',
  5432: 'PostgreSQL',
  5672: 'AMQP',
  6379: 'Redis',
  8443: 'TLS',
  9042: 'Cassandra',
  9092: 'Kafka',
  11211: 'memcached',
  27017: 'MongoDB',
};
/** Of appProtocol, or of the part of a port's name before its first dash (Istio's convention). */
const RAW = /^(tcp|tls|https|mongo|mysql|redis|postgres|postgresql|amqp|kafka|kubernetes\.io\/wss)$/i;

/** The workloads that `scope` selects. */
export function selected(scope: Scope, { workloads }: World): readonly LintWorkload[] {
  return workloads.filter((one) => isInScope(one.namespace, scope) && hasLabels(scope.selector, one.labels));
}

export function isInScope(namespace: string, scope: Scope): boolean {
  return scope.namespace === undefined || scope.namespace === namespace;
}

/** Ports that carry something else than HTTP, with how that is known: those asked for, or all that Services tell. */
export function rawPorts(
  scope: Scope,
  world: World,
  asked: readonly number[] | undefined,
): ReadonlyMap<number, string> {
  const found = new Map<number, string>();
  const told = new Set<number>();
  for (const { service, port, target } of targets(scope, world)) {
    const protocol = port.appProtocol ?? port.name.split('-')[0] ?? '';
    if (port.appProtocol !== undefined || /^(https?|http2|grpc|grpc-web|tcp|tls)$/i.test(protocol))
      told.add(target);
    if (RAW.test(protocol))
      found.set(
        target,
        `Service ${service.namespace}/${service.name} says ${port.appProtocol === undefined ? `by its name "${port.name}"` : `by appProtocol`} that it carries ${protocol}`,
      );
  }
  if (asked === undefined) return found;
  for (const port of asked) {
    const habit = WELL_KNOWN[port];
    if (habit !== undefined && !told.has(port)) found.set(port, `it is the port of ${habit}`);
  }
  return new Map([...found].filter(([port]) => asked.includes(port)));
}

/** Why a policy that names this port of the workloads may have meant another; undefined when it may be right. */
export function strangePort(scope: Scope, world: World, port: number): string | undefined {
  const declaring = selected(scope, world).filter(({ ports }) => ports.length > 0);
  if (declaring.length === 0 || declaring.some(({ ports }) => ports.some((one) => one.port === port)))
    return undefined;
  const mapped = targets(scope, world).find((one) => one.port.port === port && one.target !== port);
  const hint =
    mapped === undefined
      ? ''
      : `; Service ${mapped.service.namespace}/${mapped.service.name} maps ${port} to ${mapped.target}, and policies name the workload's port`;
  return `no selected workload declares port ${port}${hint}`;
}

interface Target {
  readonly service: LintService;
  readonly port: LintServicePort;
  /** The workload's port. */
  readonly target: number;
}

/** The workloads' ports behind Services. Without workloads among the files: Services that may select what the policy does. */
function targets(scope: Scope, world: World): readonly Target[] {
  const chosen = selected(scope, world);
  return world.services
    .filter(({ namespace, selector }) => isInScope(namespace, scope) && Object.keys(selector).length > 0)
    .flatMap((service) => {
      const behind = chosen.filter(
        ({ namespace, labels }) => namespace === service.namespace && hasLabels(service.selector, labels),
      );
      const isMeant =
        behind.length > 0 || (chosen.length === 0 && isCompatible(service.selector, scope.selector));
      return isMeant ? service.ports.flatMap((port) => targetOf(service, port, behind)) : [];
    });
}

function isCompatible(a: Readonly<Record<string, string>>, b: Readonly<Record<string, string>>): boolean {
  return Object.entries(a).every(([key, value]) => b[key] === undefined || b[key] === value);
}

function targetOf(
  service: LintService,
  port: LintServicePort,
  behind: readonly LintWorkload[],
): readonly Target[] {
  const { targetPort } = port;
  if (typeof targetPort === 'number') return [{ service, port, target: targetPort }];
  const numbers = behind.flatMap(({ ports }) => ports.filter(({ name }) => name === targetPort));
  return [...new Set(numbers.map((one) => one.port))].map((target) => ({ service, port, target }));
}
