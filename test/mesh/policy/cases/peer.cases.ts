/** What a port takes: several objects, wrong ones, and policies beside them (SEMANTICS.md section 2). */
import { PLAINTEXT, allow, deny, id, source } from '../kit.ts';
import type { Case } from '../kit.ts';
import { MESH, NS, WL, at, mesh, mtls, namespace, ports, row, workload } from './peer-kit.ts';
import type { Row } from './peer-kit.ts';

const older = { creationTimestamp: '2026-01-01T00:00:00Z' };
const newer = { creationTimestamp: '2026-01-01T00:00:01Z' };

const AGES: readonly Row[] = [
  [
    'two for the mesh: the older',
    [mesh(mtls('PERMISSIVE'), { ...newer, name: 'a' }), mesh(mtls('STRICT'), { ...older, name: 'mesh' })],
    PLAINTEXT,
    'deny',
    MESH,
  ],
  [
    'two for the mesh, the older last',
    [mesh(mtls('STRICT'), { ...older, name: 'z' }), mesh(mtls('PERMISSIVE'), { ...newer, name: 'a' })],
    PLAINTEXT,
    'deny',
  ],
  [
    'two for the namespace: the older',
    [namespace(mtls('STRICT'), { ...newer, name: 'a' }), namespace(mtls('DISABLE'), { ...older, name: 'b' })],
    PLAINTEXT,
    'allow',
  ],
  [
    'two for the workload: the older',
    [
      workload(mtls('STRICT'), { ...older, name: 'wl' }),
      workload(mtls('PERMISSIVE'), { ...newer, name: 'a' }),
    ],
    PLAINTEXT,
    'deny',
    WL,
  ],
  [
    'the older one is UNSET: the newer does not count',
    [namespace(mtls('STRICT'), { ...newer, name: 'a' }), namespace(mtls('UNSET'), { ...older, name: 'b' })],
    PLAINTEXT,
    'allow',
  ],
  [
    'the older one’s ports only',
    [
      workload(mtls('PERMISSIVE'), { ...older, name: 'a' }),
      workload(ports({ 8080: 'STRICT' }), { ...newer, name: 'b' }),
    ],
    at(8080),
    'allow',
  ],
  [
    'the same age: by name',
    [
      namespace(mtls('STRICT'), { ...older, name: 'b' }),
      namespace(mtls('PERMISSIVE'), { ...older, name: 'a' }),
    ],
    PLAINTEXT,
    'allow',
  ],
  [
    'the same age and one newer: by name',
    [
      mesh(mtls('DISABLE'), { ...newer, name: 'now' }),
      mesh(mtls('PERMISSIVE'), { ...older, name: 'second-ago' }),
      mesh(mtls('STRICT'), { ...older, name: 'second-later' }),
    ],
    PLAINTEXT,
    'allow',
  ],
  [
    'an older one that selects another workload does not count',
    [
      workload({ ...mtls('STRICT'), selector: { matchLabels: { stage: 'prod' } } }, { ...older, name: 'a' }),
      workload(mtls('PERMISSIVE'), { ...newer, name: 'b' }),
    ],
    PLAINTEXT,
    'allow',
  ],
];

const WRONG: readonly Row[] = [
  ['a mode in other letters closes', [namespace({ mtls: { mode: 'strict' } })], PLAINTEXT, 'deny', NS],
  ['a mode that is none closes', [namespace({ mtls: { mode: 'OPEN' } })], PLAINTEXT, 'deny', NS],
  ['an unknown field closes', [namespace({ ...mtls('PERMISSIVE'), more: 1 })], PLAINTEXT, 'deny', NS],
  [
    'a wrong one is for those that it selects',
    [workload({ mtls: { mode: 'OPEN' } })],
    { ...PLAINTEXT, labels: { app: 'x' } },
    'allow',
  ],
  [
    'a wrong one is STRICT for those that it selects',
    [workload({ mtls: { mode: 'OPEN' } })],
    PLAINTEXT,
    'deny',
    WL,
  ],
  ['a wrong one takes an identity', [namespace({ mtls: { mode: 'OPEN' } })], {}, 'allow'],
];

const strict = [mesh(mtls('STRICT'))];
const BESIDE: readonly Case[] = [
  {
    name: 'no ALLOW lets plaintext into STRICT',
    policies: [allow({})],
    peers: strict,
    request: PLAINTEXT,
    verdict: 'deny',
    by: MESH,
  },
  {
    name: 'no ALLOW that names plaintext lets it into STRICT',
    policies: [allow(source({ notPrincipals: ['*'] }))],
    peers: strict,
    request: PLAINTEXT,
    verdict: 'deny',
    by: MESH,
  },
  {
    name: 'under STRICT an identity still needs an ALLOW',
    policies: [allow(source({ namespaces: ['x'] }))],
    peers: strict,
    request: {},
    verdict: 'deny',
    by: null,
  },
  {
    name: 'under STRICT a DENY still denies',
    policies: [deny({})],
    peers: strict,
    request: {},
    verdict: 'deny',
    by: 'AuthorizationPolicy shop/one 0',
  },
  {
    name: 'STRICT refuses an identity that is not of Istio’s form',
    peers: strict,
    request: { from: 'spiffe://cluster.local/db' },
    verdict: 'deny',
    by: MESH,
  },
  {
    name: 'STRICT takes an identity of another trust domain: that is for the handshake to refuse',
    peers: strict,
    request: { from: id('shop', 'front', 'x') },
    verdict: 'allow',
  },
  {
    name: 'another root namespace: its PeerAuthentication is the mesh’s',
    mesh: { rootNamespace: 'mesh-root' },
    peers: [mesh(mtls('STRICT'), { namespace: 'mesh-root' })],
    request: PLAINTEXT,
    verdict: 'deny',
  },
  {
    name: 'another root namespace: istio-system is one like others',
    mesh: { rootNamespace: 'mesh-root' },
    peers: strict,
    request: PLAINTEXT,
    verdict: 'allow',
  },
  {
    name: 'a PERMISSIVE port still obeys a DENY of plaintext',
    policies: [deny(source({ notPrincipals: ['*'] }))],
    peers: [namespace(mtls('PERMISSIVE'))],
    request: PLAINTEXT,
    verdict: 'deny',
    by: 'AuthorizationPolicy shop/one 0',
  },
];

export const peerCases: readonly Case[] = [...[...AGES, ...WRONG].map(row), ...BESIDE];
