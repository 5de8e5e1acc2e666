/** Says what this machine lacks for the tests, and exits with 1 when it lacks anything. */
import { missing } from './preflight.ts';

const lacks = missing();
for (const line of lacks) console.error(`missing: ${line}`);
process.exitCode = lacks.length > 0 ? 1 : 0;
