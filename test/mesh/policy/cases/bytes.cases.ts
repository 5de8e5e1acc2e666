/** Bytes that are not HTTP, where rules speak of HTTP (SEMANTICS.md 1.10). */
import { PLAINTEXT, allow, deny, id, operation, policy, source, when } from '../kit.ts';
import type { Case, Request } from '../kit.ts';

type Row = readonly [string, readonly unknown[], Request, 'allow' | 'deny'];

const HTTP_ONLY: readonly (readonly [string, unknown])[] = [
  ['hosts', operation({ hosts: ['x'] })],
  ['notHosts', operation({ notHosts: ['x'] })],
  ['methods', operation({ methods: ['GET'] })],
  ['notMethods', operation({ notMethods: ['GET'] })],
  ['paths', operation({ paths: ['/x'] })],
  ['notPaths', operation({ notPaths: ['/x'] })],
  ['requestPrincipals', source({ requestPrincipals: ['*'] })],
  ['notRequestPrincipals', source({ notRequestPrincipals: ['x'] })],
  ['remoteIpBlocks', source({ remoteIpBlocks: ['10.0.0.0/8'] })],
  ['notRemoteIpBlocks', source({ notRemoteIpBlocks: ['10.0.0.0/8'] })],
  ['request.headers', when(['request.headers[x]', ['y']])],
  ['request.headers notValues', when(['request.headers[x]', undefined, ['y']])],
  ['request.headers[:method]', when(['request.headers[:method]', ['GET']])],
  ['remote.ip', when(['remote.ip', ['10.0.0.0/8']])],
  ['request.auth.principal', when(['request.auth.principal', ['*']])],
  ['request.auth.presenter', when(['request.auth.presenter', ['x']])],
  ['request.auth.claims', when(['request.auth.claims[a]', undefined, ['b']])],
  ['experimental.envoy.filters', when(['experimental.envoy.filters.a.b[c]', ['x']])],
];

const alone = HTTP_ONLY.flatMap(([field, rule]): Row[] => [
  [`no ALLOW by ${field}`, [allow(rule)], {}, 'deny'],
  [`every DENY by ${field}`, [deny(rule)], {}, 'deny'],
  [
    `an ALLOW by ${field} beside one for the port`,
    [allow(rule, operation({ ports: ['8080'] }))],
    {},
    'allow',
  ],
]);

/** From and to as Istio's TCP tests mix them. */
const MIXED: readonly Row[] = [
  [
    'an ALLOW drops its L4 part too',
    [allow({ ...source({ namespaces: ['shop'] }), ...operation({ methods: ['GET'], ports: ['8080'] }) })],
    {},
    'deny',
  ],
  [
    'an ALLOW with HTTP in one of two entries drops both',
    [allow(operation({ methods: ['GET'] }, { ports: ['8080'] }))],
    {},
    'deny',
  ],
  [
    'an ALLOW with HTTP in a source drops the rule',
    [
      allow({
        ...source({ namespaces: ['shop'], requestPrincipals: ['id-2'] }),
        ...operation({ ports: ['8080'] }),
      }),
    ],
    {},
    'deny',
  ],
  [
    'another ALLOW rule without HTTP stays',
    [
      allow(
        { ...source({ namespaces: ['shop'] }), ...operation({ methods: ['GET'] }) },
        { ...source({ namespaces: ['shop'] }), ...operation({ ports: ['8080'] }) },
      ),
    ],
    {},
    'allow',
  ],
  [
    'a DENY on a method and a port: that port',
    [deny(operation({ methods: ['GET'], ports: ['8080'] }))],
    {},
    'deny',
  ],
  [
    'a DENY on a method and a port: another port',
    [deny(operation({ methods: ['GET'], ports: ['80'] }))],
    {},
    'allow',
  ],
  [
    'a DENY on a method or a port: all',
    [deny(operation({ methods: ['GET'] }, { ports: ['80'] }))],
    {},
    'deny',
  ],
  [
    'a DENY on a path but not a port: that port',
    [deny(operation({ paths: ['/x'], notPorts: ['8080'] }))],
    {},
    'allow',
  ],
  [
    'a DENY of a client by header: that client',
    [deny({ ...source({ principals: ['*/sa/front'] }), ...when(['request.headers[x]', ['y']]) })],
    {},
    'deny',
  ],
  [
    'a DENY of a client by header: another client',
    [deny({ ...source({ principals: ['*/sa/front'] }), ...when(['request.headers[x]', ['y']]) })],
    { from: id('shop', 'back') },
    'allow',
  ],
  [
    'a DENY of a client by method: that client',
    [deny({ ...source({ principals: ['*/sa/front'] }), ...operation({ methods: ['GET'] }) })],
    {},
    'deny',
  ],
  [
    'a DENY of a client by method: plaintext',
    [deny({ ...source({ principals: ['*/sa/front'] }), ...operation({ methods: ['GET'] }) })],
    PLAINTEXT,
    'allow',
  ],
  [
    'a DENY of a token’s client on a port: that port',
    [deny({ ...source({ requestPrincipals: ['id-1'] }), ...operation({ ports: ['8080'] }) })],
    {},
    'deny',
  ],
  [
    'a DENY of a token’s client on a port: another port',
    [deny({ ...source({ requestPrincipals: ['id-1'] }), ...operation({ ports: ['80'] }) })],
    {},
    'allow',
  ],
  [
    'a DENY of a token’s client in one namespace: that one',
    [deny({ ...source({ namespaces: ['shop'], requestPrincipals: ['id-1'] }) })],
    {},
    'deny',
  ],
  [
    'a DENY of a token’s client in one namespace: another',
    [deny({ ...source({ namespaces: ['ns-2'], requestPrincipals: ['id-1'] }) })],
    {},
    'allow',
  ],
  [
    'a DENY by method and a condition on the port',
    [deny({ ...operation({ methods: ['GET'] }), ...when(['destination.port', ['80']]) })],
    {},
    'allow',
  ],
  ['an empty DENY rule beside one by token', [deny({}, source({ notRequestPrincipals: ['x'] }))], {}, 'deny'],
  [
    'a DENY by L4 alone beside one by token: a client of neither',
    [
      deny(
        { ...source({ notRequestPrincipals: ['x'], namespaces: ['a'] }) },
        source({ principals: ['*/sa/b'] }),
      ),
    ],
    {},
    'allow',
  ],
  [
    'CUSTOM by method: denied',
    [policy({ action: 'CUSTOM', provider: { name: 'x' }, rules: [operation({ methods: ['GET'] })] })],
    {},
    'deny',
  ],
  [
    'CUSTOM by method and address: another address',
    [
      policy({
        action: 'CUSTOM',
        provider: { name: 'x' },
        rules: [{ ...source({ ipBlocks: ['1.2.3.4'] }), ...operation({ methods: ['GET'] }) }],
      }),
    ],
    {},
    'allow',
  ],
  ['AUDIT by method', [policy({ action: 'AUDIT', rules: [operation({ methods: ['GET'] })] })], {}, 'allow'],
  [
    'a dry-run DENY by method',
    [
      policy(
        { action: 'DENY', rules: [operation({ methods: ['GET'] })] },
        { annotations: { 'istio.io/dry-run': 'true' } },
      ),
    ],
    {},
    'allow',
  ],
  [
    'SNI, service account and trust domain are not HTTP',
    [
      allow(
        when(
          ['connection.sni', ['s']],
          ['source.serviceAccount', ['front']],
          ['source.trustDomain', ['cluster.local']],
        ),
      ),
    ],
    { sni: 's' },
    'allow',
  ],
  ['a DENY by SNI that is not there', [deny(when(['connection.sni', ['s']]))], {}, 'allow'],
  [
    'trustDomains beside another field still count',
    [allow(source({ trustDomains: ['x'], namespaces: ['shop'] }))],
    {},
    'deny',
  ],
];

const row =
  (prefix: string) =>
  ([name, policies, request, verdict]: Row): Case => ({
    name: `${prefix} ${name}`,
    policies,
    request,
    verdict,
  });

export const bytesCases: readonly Case[] = [
  ...alone.map(row('bytes that are not HTTP match')),
  ...MIXED.map(row('bytes that are not HTTP:')),
];
