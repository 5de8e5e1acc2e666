/** Addresses, ports and SNI (SEMANTICS.md 1.5 to 1.7). */
import { matching, operation, source, when } from '../kit.ts';
import type { Case, Request } from '../kit.ts';

const from = (ip: string): Request => ({ ip });
const to = (address: string): Request => ({ to: address });
const at = (port: number): Request => ({ port });

const blocks: readonly (readonly [string, readonly string[], readonly string[], readonly string[]])[] = [
  ['one address', ['10.0.0.1'], ['10.0.0.1'], ['10.0.0.2', '10.0.0.11', '::1']],
  ['the same as /32', ['10.0.0.1/32'], ['10.0.0.1'], ['10.0.0.2']],
  ['a range', ['5.6.7.0/24'], ['5.6.7.0', '5.6.7.255'], ['5.6.8.0', '5.6.6.255']],
  ['a range with host bits', ['10.1.2.3/16'], ['10.1.255.255', '10.1.0.0'], ['10.2.0.0']],
  ['a range that ends inside a byte', ['10.0.0.64/26'], ['10.0.0.127'], ['10.0.0.63', '10.0.0.128']],
  ['everything of IPv4', ['0.0.0.0/0'], ['1.2.3.4', '255.255.255.255'], ['::1', 'fd00::1']],
  ['everything of IPv6', ['::/0'], ['::1', '2001:db8::7'], ['1.2.3.4']],
  ['one IPv6 address, written long', ['2001:0db8:0:0:0:0:0:0001'], ['2001:db8::1'], ['2001:db8::2']],
  ['an IPv6 range', ['fd00:1::/32'], ['fd00:1:2::3'], ['fd00:2::1']],
  ['an IPv6 range with host bits', ['fd00::ffff/112'], ['fd00::1'], ['fd00::1:0']],
  [
    'a client on a dual-stack socket is its IPv4 address',
    ['10.0.0.1'],
    ['::ffff:10.0.0.1'],
    ['::ffff:10.0.0.2'],
  ],
  [
    'an IPv4-mapped address is IPv6: no IPv4 client has it',
    ['::ffff:10.0.0.1'],
    [],
    ['10.0.0.1', '::ffff:10.0.0.1'],
  ],
  ['an IPv4-compatible address is IPv6', ['::10.0.0.1'], [], ['10.0.0.1', '::ffff:10.0.0.1']],
  ['an IPv4-mapped range of few bits is all of IPv6', ['::ffff:10.0.0.0/0'], ['fd00::1'], ['10.0.0.1']],
  ['an IPv4-mapped range likewise', ['::ffff:10.0.0.0/104'], [], ['10.0.0.1', '::ffff:10.0.0.1']],
  ['an IPv4-mapped range beside another', ['::ffff:10.0.0.0/104', '10.0.0.1'], ['10.0.0.1'], ['10.0.0.2']],
  ['several', ['1.2.3.4', '5.6.0.0/16'], ['1.2.3.4', '5.6.200.1'], ['1.2.3.5', '5.7.0.1']],
];

const addresses = blocks.flatMap(([what, values, inside, outside]) => {
  const requests = (list: readonly string[], make: (ip: string) => Request): Record<string, Request> =>
    Object.fromEntries(list.map((ip) => [ip, make(ip)]));
  return [
    ...matching({
      name: `ipBlocks, ${what}`,
      rule: source({ ipBlocks: values }),
      yes: requests(inside, from),
      no: requests(outside, from),
    }),
    ...matching({
      name: `notIpBlocks, ${what}`,
      rule: source({ notIpBlocks: values }),
      yes: requests(outside, from),
      no: requests(inside, from),
    }),
    ...matching({
      name: `source.ip, ${what}`,
      rule: when(['source.ip', values]),
      yes: requests(inside, from),
      no: requests(outside, from),
    }),
    ...matching({
      name: `destination.ip, ${what}`,
      rule: when(['destination.ip', values]),
      yes: requests(inside, to),
      no: requests(outside, to),
    }),
  ];
});

const twins = [
  ...matching({
    name: 'a block without one address of it',
    rule: source({ ipBlocks: ['10.0.0.0/8'], notIpBlocks: ['10.0.0.9'] }),
    yes: { 'the others': from('10.0.0.8') },
    no: { 'that one': from('10.0.0.9'), 'one outside': from('11.0.0.1') },
  }),
  ...matching({
    name: 'destination.ip notValues',
    rule: when(['destination.ip', undefined, ['127.0.0.2']]),
    yes: { another: to('127.0.0.4') },
    no: { 'that one': to('127.0.0.2') },
  }),
  ...matching({
    name: 'source.ip values and notValues',
    rule: when(['source.ip', ['192.168.10.0/24'], ['192.168.10.7']]),
    yes: { 'the range': from('192.168.10.8') },
    no: { 'the one taken out': from('192.168.10.7') },
  }),
  ...matching({
    name: 'ipBlocks and namespaces are ANDed',
    rule: source({ ipBlocks: ['10.0.0.0/24'], namespaces: ['shop'] }),
    yes: { both: from('10.0.0.7') },
    no: { 'the address only': { ip: '10.0.0.7', from: null }, 'the namespace only': from('10.0.1.7') },
  }),
  ...matching({
    name: 'remoteIpBlocks: no hop is trusted, so it is the direct client',
    rule: source({ remoteIpBlocks: ['10.0.0.0/24'] }),
    common: { http: { headers: { 'x-forwarded-for': '10.0.0.1' } } },
    yes: { inside: from('10.0.0.7') },
    no: { outside: from('10.0.1.7') },
  }),
  ...matching({
    name: 'notRemoteIpBlocks',
    rule: source({ notRemoteIpBlocks: ['10.0.0.0/24'] }),
    common: { http: {} },
    yes: { outside: from('10.0.1.7') },
    no: { inside: from('10.0.0.7') },
  }),
  ...matching({
    name: 'remote.ip',
    rule: when(['remote.ip', ['1.2.3.4', '5.6.7.0/24'], ['5.6.7.8']]),
    common: { http: {} },
    yes: { 'the address': from('1.2.3.4'), 'the range': from('5.6.7.9') },
    no: { 'the one taken out': from('5.6.7.8'), others: from('9.9.9.9') },
  }),
];

const ports = [
  ...matching({
    name: 'ports',
    rule: operation({ ports: ['8080', '9090'] }),
    yes: { 'the first': at(8080), 'the second': at(9090) },
    no: { another: at(80), 'HBONE’s own': at(15_008) },
  }),
  ...matching({
    name: 'notPorts',
    rule: operation({ notPorts: ['8080'] }),
    yes: { another: at(80) },
    no: { 'that one': at(8080) },
  }),
  ...matching({
    name: 'ports 0 and 65535 are ports',
    rule: operation({ ports: ['0', '65535'] }),
    yes: { 'the highest': at(65_535), 'the lowest': at(0) },
    no: { another: at(1) },
  }),
  ...matching({
    name: 'a port with leading zeros is that number',
    rule: operation({ ports: ['008080'] }),
    yes: { 8080: at(8080) },
  }),
  ...matching({
    name: 'destination.port',
    rule: when(['destination.port', ['80', '90'], ['90']]),
    yes: { 80: at(80) },
    no: { 'the one taken out': at(90), another: at(8080) },
  }),
  ...matching({
    name: 'operations are ORed, a port and a source are ANDed',
    rule: { ...operation({ ports: ['80'] }, { ports: ['81'] }), ...source({ namespaces: ['shop'] }) },
    yes: { 'the first port': at(80), 'the second port': at(81) },
    no: { 'another port': at(82), 'no identity': { port: 80, from: null } },
  }),
];

const sni = [
  ...matching({
    name: 'connection.sni',
    rule: when(['connection.sni', ['exact.com', '*.suffix.com', 'prefix.*'], ['not.suffix.com']]),
    yes: {
      'the exact one': { sni: 'exact.com' },
      'one with the suffix': { sni: 'a.suffix.com' },
      'one with the prefix': { sni: 'prefix.org' },
    },
    no: {
      'the one taken out': { sni: 'not.suffix.com' },
      another: { sni: 'exact.com.evil' },
      none: {},
      'the suffix without its dot': { sni: 'suffix.com' },
    },
  }),
  ...matching({
    name: 'connection.sni *',
    rule: when(['connection.sni', ['*']]),
    yes: { any: { sni: 'x' } },
    no: { none: {} },
  }),
  ...matching({
    name: 'connection.sni notValues',
    rule: when(['connection.sni', undefined, ['*.suffix.com']]),
    yes: { none: {}, another: { sni: 'x' } },
    no: { 'that one': { sni: 'a.suffix.com' } },
  }),
];

export const addressCases: readonly Case[] = [...addresses, ...twins, ...ports, ...sni];
