/**
 * The lab's stand-in for kube-proxy, never the product's: nft rules that turn ClusterIPs into endpoints for clients
 * that are not captured. The same rules on every node.
 */
import type { EndpointSpec, PortSpec } from './objects.ts';

/** A pod as Services name it. */
export interface PodRef {
  readonly name: string;
  readonly namespace: string;
  readonly uid: string;
  readonly ips: readonly string[];
  readonly nodeName: string;
}

export interface ServiceRules {
  readonly clusterIps: readonly string[];
  readonly ports: readonly PortSpec[];
  readonly endpoints: readonly EndpointSpec[];
}

export class KubeProxyRules {
  readonly #services = new Map<string, ServiceRules>();

  /** Replaces one Service's rules; undefined removes them. */
  set(key: string, rules: ServiceRules | undefined): void {
    if (rules === undefined) this.#services.delete(key);
    else this.#services.set(key, rules);
  }

  /** Input of `nft -f -`: replaces the whole table at once. */
  render(): string {
    const services = [...this.#services.values()];
    const translate = services.flatMap(translations);
    const hairpins = new Set(services.flatMap(hairpinsOf));
    return [
      'table inet kube-proxy-stand-in',
      'delete table inet kube-proxy-stand-in',
      'table inet kube-proxy-stand-in {',
      ' chain services {',
      ...translate,
      ' }',
      ' chain prerouting { type nat hook prerouting priority dstnat; jump services; }',
      ' chain output { type nat hook output priority -100; jump services; }',
      ' chain postrouting { type nat hook postrouting priority srcnat;',
      ...hairpins,
      ' }',
      '}',
      '',
    ].join('\n');
  }
}

function familyOf(address: string): 'ip' | 'ip6' {
  return address.includes(':') ? 'ip6' : 'ip';
}

function translations(service: ServiceRules): string[] {
  return service.clusterIps.flatMap((clusterIp) => {
    const family = familyOf(clusterIp);
    const ready = service.endpoints.filter(
      (endpoint) => familyOf(endpoint.ip) === family && endpoint.ready !== false,
    );
    return service.ports.map((port) => {
      const match = `  ${family} daddr ${clusterIp} tcp dport ${port.port}`;
      if (ready.length === 0) return `${match} drop`;
      const targets = ready.map((endpoint, index) => `${index} : ${endpoint.ip}`).join(', ');
      return `${match} dnat ${family} to numgen random mod ${ready.length} map { ${targets} } : ${port.targetPort}`;
    });
  });
}

/** A pod that reaches itself through a Service gets its answer through the node, as with kube-proxy. */
function hairpinsOf(service: ServiceRules): string[] {
  return service.endpoints.map((endpoint) => {
    const family = familyOf(endpoint.ip);
    return `  ${family} saddr ${endpoint.ip} ${family} daddr ${endpoint.ip} ct status dnat masquerade`;
  });
}
