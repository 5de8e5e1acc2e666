/** Makes what a cluster needs and what takes minutes, with a line for each; says first what the machine lacks. */
import { existsSync } from 'node:fs';
import { missing } from '../../lab/kit/preflight.ts';
import { progress, say } from '../../lab/terminal.ts';
import { cachedPath } from './cache.ts';
import { testImages } from './images.ts';
import { kubetool } from './kubetool.ts';
import { kubernetesVersion, multi, multiRecipe, runcWrapper } from './multi.ts';
import { rootfs } from './rootfs.ts';

const lacks = missing();
for (const line of lacks) console.error(`missing: ${line}`);
if (lacks.length > 0) process.exit(1);
if (!existsSync(cachedPath(multiRecipe)))
  say(
    `Kubernetes ${kubernetesVersion()} is built now, once on this machine: 6 minutes on two idle cores, 4 GB of disk`,
  );
await progress(`Kubernetes ${kubernetesVersion()}, one binary`, multi);
await progress('a wrapper for runc', runcWrapper);
await progress('the kit’s C program', kubetool);
const lower = await progress('the root file system of nodes', rootfs);
await progress('images for tests', () => testImages(lower));
