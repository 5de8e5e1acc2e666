/** Hosts, methods, headers and tokens (SEMANTICS.md 1.3, 1.6, 1.7). */
import { id, matching, operation, source, when } from '../kit.ts';
import type { Case, Request } from '../kit.ts';

const host = (value: string): Request => ({ http: { host: value } });
const method = (value: string): Request => ({ http: { method: value } });
const header = (name: string, ...values: readonly string[]): Request => ({
  http: { headers: { [name]: values.length === 1 ? (values[0] ?? '') : values } },
});

const hosts = [
  ...matching({
    name: 'hosts',
    rule: operation({ hosts: ['example.com', 'prefix.example.*', '*.suffix.com'] }),
    yes: {
      'the exact one': host('example.com'),
      'in other letters': host('eXample.COM'),
      'with the prefix': host('prefix.example.org'),
      'with the prefix in other letters': host('PREFIX.example.org'),
      'with the suffix': host('a.b.Suffix.com'),
    },
    no: {
      'with a port': host('example.com:8080'),
      'the suffix without its dot': host('suffix.com'),
      'a longer one': host('example.com.evil'),
      another: host('x'),
    },
  }),
  ...matching({
    name: 'hosts with any port',
    rule: operation({ hosts: ['Example.com:*'] }),
    yes: { 'a port': host('example.com:8080') },
    no: { none: host('example.com') },
  }),
  ...matching({
    name: 'hosts with a port',
    rule: operation({ hosts: ['example.com:8080'] }),
    yes: { 'that port': host('example.com:8080') },
    no: { 'another port': host('example.com:80'), none: host('example.com') },
  }),
  ...matching({
    name: 'notHosts',
    rule: operation({ notHosts: ['deny.web.com', '*.evil'] }),
    yes: { another: host('allow.web.com') },
    no: {
      'that one': host('deny.web.com'),
      'in other letters': host('DENY.web.com'),
      'the suffix': host('a.evil'),
    },
  }),
  ...matching({
    name: 'request.headers[:authority]',
    rule: when(['request.headers[:authority]', ['v1', '*.example']]),
    yes: { 'the exact one': host('v1'), 'the suffix': host('a.example') },
    no: { another: host('v2') },
  }),
  ...matching({
    name: 'request.headers[Host] is the authority',
    rule: when(['request.headers[Host]', ['v1']]),
    yes: { 'the exact one': host('v1') },
    no: { another: host('v2') },
  }),
];

const methods = [
  ...matching({
    name: 'methods',
    rule: operation({ methods: ['GET', 'P*', '*E'] }),
    yes: { GET: method('GET'), PUT: method('PUT'), P: method('P'), DELETE: method('DELETE') },
    no: { HEAD: method('HEAD'), 'lower case': method('get') },
  }),
  ...matching({
    name: 'notMethods',
    rule: operation({ notMethods: ['PUT'] }),
    yes: { GET: method('GET'), 'lower case': method('put') },
    no: { PUT: method('PUT') },
  }),
  ...matching({
    name: 'methods *',
    rule: operation({ methods: ['*'] }),
    yes: { any: method('PURGE') },
  }),
  ...matching({
    name: 'request.headers[:method]',
    rule: when(['request.headers[:method]', ['GET']]),
    yes: { GET: method('GET') },
    no: { POST: method('POST') },
  }),
  ...matching({
    name: 'a gRPC method is a path and POST',
    rule: operation({ methods: ['POST'], paths: ['/proto.EchoTestService/Echo'] }),
    yes: { 'the call': { http: { method: 'POST', path: '/proto.EchoTestService/Echo' } } },
    no: {
      'another call': { http: { method: 'POST', path: '/proto.EchoTestService/ForwardEcho' } },
      GET: { http: { path: '/proto.EchoTestService/Echo' } },
    },
  }),
];

const headers = [
  ...matching({
    name: 'a header: exact, prefix, suffix',
    rule: when(['request.headers[X-header]', ['header', 'header-prefix-*', '*-suffix-header']]),
    yes: {
      'the exact value': header('x-header', 'header'),
      'its name in other letters': header('X-HEADER', 'header'),
      'the prefix': header('X-Header', 'header-prefix-a'),
      'the suffix': header('X-Header', 'a-suffix-header'),
    },
    no: {
      'another value': header('x-header', 'other'),
      'the value in other letters': header('x-header', 'Header'),
      'no header': { http: {} },
      'another header': header('x-header-2', 'header'),
    },
  }),
  ...matching({
    name: 'a header that is there',
    rule: when(['request.headers[x-foo]', ['*']]),
    yes: { 'with a value': header('x-foo', 'a') },
    no: { absent: { http: {} } },
  }),
  ...matching({
    name: 'a header that is not there',
    rule: when(['request.headers[x-foo]', undefined, ['*']]),
    yes: { absent: { http: {} } },
    no: { 'with a value': header('x-foo', 'a') },
  }),
  ...matching({
    name: 'a header’s notValues',
    rule: when(['request.headers[x-foo]', undefined, ['bar']]),
    yes: { 'another value': header('x-foo', 'foo'), absent: { http: {} } },
    no: { 'that value': header('x-foo', 'bar') },
  }),
  ...matching({
    name: 'a header’s values and notValues',
    rule: when(['request.headers[x-test]', ['match*'], ['match-not']]),
    yes: { match: header('x-test', 'match') },
    no: {
      'the one taken out': header('x-test', 'match-not'),
      absent: { http: {} },
      other: header('x-test', 'x'),
    },
  }),
  ...matching({
    name: 'a repeated header is joined before it is compared',
    rule: when(['request.headers[x-role]', ['admin']]),
    yes: { 'sent once': header('x-role', 'admin') },
    no: {
      'beside another': header('x-role', 'user', 'admin'),
      'sent twice': header('x-role', 'admin', 'admin'),
    },
  }),
  ...matching({
    name: 'a repeated header joined',
    rule: when(['request.headers[x-role]', ['user,admin']]),
    yes: { 'both in that order': header('x-role', 'user', 'admin') },
    no: { 'the other order': header('x-role', 'admin', 'user') },
  }),
  ...matching({
    name: 'two headers are ANDed',
    rule: when(['request.headers[a]', ['1']], ['request.headers[b]', ['2']]),
    yes: { both: { http: { headers: { a: '1', b: '2' } } } },
    no: { one: header('a', '1'), 'the other': header('b', '2') },
  }),
];

const TOKENS: readonly (readonly [string, unknown, unknown])[] = [
  [
    'requestPrincipals',
    source({ requestPrincipals: ['*'] }),
    source({ notRequestPrincipals: ['issuer/sub'] }),
  ],
  ...[
    'request.auth.principal',
    'request.auth.audiences',
    'request.auth.presenter',
    'request.auth.claims[iss]',
    'request.auth.claims[nested][key1]',
    'request.auth.claims[a][b][c]',
    'experimental.envoy.filters.a.b[c]',
  ].map((key) => [key, when([key, ['*']]), when([key, undefined, ['x']])] as const),
];

const tokens = TOKENS.flatMap(([name, positive, negative]) => [
  ...matching({
    name: `${name}: nothing here gives one, so none matches`,
    rule: positive,
    no: {
      'a request with a token': { http: { headers: { authorization: 'Bearer x.y.z' } } },
      'one without': { http: {} },
    },
  }),
  ...matching({
    name: `${name} not: nothing here gives one, so all match`,
    rule: negative,
    yes: {
      'a request with a token': { http: { headers: { authorization: 'Bearer x.y.z' } } },
      'one without': { http: {} },
    },
  }),
]);

const together = [
  ...matching({
    name: 'source, operation and conditions are ANDed',
    rule: {
      ...source({ principals: ['cluster.local/ns/shop/sa/front'] }),
      ...operation({ methods: ['GET'], paths: ['/api/*'], ports: ['8080'], hosts: ['web'] }),
      ...when(['request.headers[x-v]', ['1']], ['source.ip', ['10.0.0.0/8']]),
    },
    common: { http: { host: 'web', path: '/api/x', headers: { 'x-v': '1' } } },
    yes: { 'all of them': {} },
    no: {
      'another identity': { from: id('shop', 'back') },
      'another port': { port: 80 },
      'another address': { ip: '11.0.0.1' },
      'another host': { http: { host: 'x', path: '/api/x', headers: { 'x-v': '1' } } },
      'another path': { http: { host: 'web', path: '/x', headers: { 'x-v': '1' } } },
      'another method': { http: { method: 'PUT', host: 'web', path: '/api/x', headers: { 'x-v': '1' } } },
      'another header': { http: { host: 'web', path: '/api/x', headers: { 'x-v': '2' } } },
    },
  }),
  ...matching({
    name: 'values that all match and not values that all match',
    rule: operation({ hosts: ['exact.com', '*'], notHosts: ['not-exact.com', '*'] }),
    no: { any: host('exact.com') },
  }),
];

export const httpCases: readonly Case[] = [...hosts, ...methods, ...headers, ...tokens, ...together];
