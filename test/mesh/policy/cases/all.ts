/** All tables of cases. */
import type { Case } from '../kit.ts';
import { addressCases } from './address.cases.ts';
import { bytesCases } from './bytes.cases.ts';
import { decisionCases } from './decision.cases.ts';
import { httpCases } from './http.cases.ts';
import { identityCases } from './identity.cases.ts';
import { invalidCases } from './invalid.cases.ts';
import { pathCases } from './path.cases.ts';
import { peerLevelCases } from './peer-levels.cases.ts';
import { peerCases } from './peer.cases.ts';
import { scenarioCases } from './scenario.cases.ts';
import { scopeCases } from './scope.cases.ts';

export const TABLES: Readonly<Record<string, readonly Case[]>> = {
  'how policies are put together': decisionCases,
  'for whom a policy is': scopeCases,
  'who asks': identityCases,
  'addresses, ports and SNI': addressCases,
  'hosts, methods, headers, tokens': httpCases,
  paths: pathCases,
  'bytes that are not HTTP': bytesCases,
  'what admission would refuse': invalidCases,
  'what a port takes': [...peerLevelCases, ...peerCases],
  'whole configurations': scenarioCases,
};
