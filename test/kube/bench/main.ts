/**
 * The benchmark job's program (manifests/overlays/bench). `agent`: in a client pod, runs one load when it is asked to.
 * `run`: asks the two agents by turns, one in the mesh, one not; prints a table and JSON; exits 1 when anything failed.
 */
import { serveAgent } from './agent.ts';
import { measure } from './measure.ts';
import { tableOf } from './table.ts';

const AGENT_PORT = 9_000;

const number = (name: string, fallback: number): number => {
  const value = Number(process.env[name] ?? fallback);
  if (Number.isInteger(value) && value > 0) return value;
  throw new Error(`${name} is not a number above 0`);
};
/** Where a Service is, as the kubelet says it: a cluster without DNS will do. */
const service = (name: string): string => {
  const host = process.env[`${name}_SERVICE_HOST`];
  if (host === undefined) throw new Error(`${name}_SERVICE_HOST is not set: is the Service there?`);
  return host;
};

if (process.argv[2] === 'agent') serveAgent(AGENT_PORT);
else {
  const side = (name: 'MESH' | 'PLAIN'): { agent: string; server: string; isCaptured: boolean } => ({
    agent: `http://${service(`CLIENT_${name}`)}:${AGENT_PORT}`,
    server: service(`SERVER_${name}`),
    isCaptured: name === 'MESH',
  });
  const results = await measure({
    sides: { plain: side('PLAIN'), mesh: side('MESH') },
    rounds: number('ROUNDS', 3),
    milliseconds: number('MILLISECONDS', 3_000),
  });
  process.stdout.write(`${tableOf(results)}\n${JSON.stringify(results)}\n`);
  const bad = results.filter(({ plain, mesh }) => plain.failed + mesh.failed > 0);
  for (const { load } of bad) process.stderr.write(`${load}: some exchanges failed\n`);
  process.exitCode = bad.length === 0 ? 0 : 1;
}
