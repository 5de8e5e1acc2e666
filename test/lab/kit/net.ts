/** The lab's addresses, and iproute2 inside a namespace. */
import { must } from '../../support/run.ts';

/** Gateway of every pod, on the node's end of its veth; never leaves the link. */
const GATEWAY = { v4: '169.254.1.1', v6: 'fe80::1', mac: 'ee:ee:ee:ee:ee:ee' };

export const FABRIC = {
  nodeIp: (node: number) => `172.30.0.${10 + node}`,
  nodeIp6: (node: number) => `fd00:172::${10 + node}`,
  /** A host that is no part of the cluster. */
  outside: { via: '172.30.0.200', via6: 'fd00:172::200', ip: '198.51.100.10', ip6: 'fd00:198::10' },
};

export const podCidrs = (node: number): readonly [string, string] => [
  `10.244.${node}.0/24`,
  `fd00:244:${node}::/64`,
];

/** `/proc/PID/ns/net`. */
export function netnsOf(pid: number): string {
  return `/proc/${pid}/ns/net`;
}

/** Runs iproute2 commands (without the word `ip`) in one process inside `netns`. @throws Error naming the bad line. */
export async function ip(netns: string, commands: readonly string[]): Promise<string> {
  return must(['nsenter', `--net=${netns}`, 'ip', '-batch', '-'], { input: `${commands.join('\n')}\n` });
}

/** A fixed MAC: neighbours are entered by hand, nothing waits for ARP or neighbour discovery. */
export function macOf(node: number, host: number): string {
  const hex = (value: number): string => value.toString(16).padStart(2, '0');
  return `02:00:00:${hex(node)}:${hex(host >> 8)}:${hex(host & 0xff)}`;
}

export interface PodLink {
  readonly veth: string;
  readonly mac: string;
  readonly ips: readonly string[];
}

/** Commands for the node's namespace: the pair, and routes to the pod. `sandboxPid` gets the other end as eth0. */
export function nodeSide(link: PodLink, sandboxPid: number): string[] {
  return [
    `link add ${link.veth} address ${GATEWAY.mac} type veth peer name eth0 address ${link.mac} netns ${sandboxPid}`,
    `link set ${link.veth} up`,
    ...link.ips.flatMap((address) => [
      `neigh replace ${address} lladdr ${link.mac} dev ${link.veth} nud permanent`,
      `route replace ${address} dev ${link.veth}`,
    ]),
  ];
}

/** Commands for the pod's namespace. */
export function podSide(link: PodLink): string[] {
  return [
    'link set eth0 up',
    ...link.ips.flatMap((address) => {
      const gateway = address.includes(':') ? GATEWAY.v6 : GATEWAY.v4;
      return [
        address.includes(':') ? `addr add ${address}/128 dev eth0 nodad` : `addr add ${address}/32 dev eth0`,
        `neigh replace ${gateway} lladdr ${GATEWAY.mac} dev eth0 nud permanent`,
        `route replace ${gateway} dev eth0`,
        `route replace default via ${gateway} dev eth0`,
      ];
    }),
  ];
}
