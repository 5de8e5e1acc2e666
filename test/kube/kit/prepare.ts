/**
 * `node test/kube/kit/prepare.ts [check] [--tests]`: makes what a cluster needs and what takes minutes, with a line for
 * each; says first what the machine lacks. `--tests`: what only tests need, too. `check`: says what is lacking, no more.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { progress, say } from '../../lab/terminal.ts';
import { CACHE_ROOT, isMade } from './cache.ts';
import type { Recipe } from './cache.ts';
import { certManager, certManagerRecipe, certManagerVersion } from './cert-manager.ts';
import { testImages } from './images.ts';
import { kubetool } from './kubetool.ts';
import { kubernetesVersion, multi, multiRecipe, runcWrapper } from './multi.ts';
import { missingForKube, needs } from './needs.ts';
import { rootfs, rootfsRecipe } from './rootfs.ts';

/** What is made once on a machine: `bytes` with what making it leaves in Go's own caches, `minutes` on two idle cores. */
interface Piece {
  readonly what: string;
  readonly recipe: Recipe;
  readonly minutes: number;
  readonly bytes: number;
  readonly make: () => Promise<unknown>;
}

const KUBERNETES: readonly Piece[] = [
  {
    what: `Kubernetes ${kubernetesVersion()}`,
    recipe: multiRecipe,
    minutes: 6,
    bytes: 4e9,
    make: multi,
  },
  { what: 'the root file system of nodes', recipe: rootfsRecipe, minutes: 1, bytes: 0.5e9, make: rootfs },
];
const TESTS: readonly Piece[] = [
  {
    what: `cert-manager ${certManagerVersion()}`,
    recipe: certManagerRecipe,
    minutes: 3,
    bytes: 2e9,
    make: certManager,
  },
];

/** buildah's layers, of many builds. */
const IMAGE_BYTES = 3e9;

const isForTests = process.argv.includes('--tests');
const pieces = [...KUBERNETES, ...(isForTests ? TESTS : [])].filter(({ recipe }) => !isMade(recipe));
const forImage = existsSync(join(CACHE_ROOT, 'image/storage')) ? 0 : IMAGE_BYTES;
const toBeMade = pieces.reduce((sum, { bytes }) => sum + bytes, forImage);
const lacks = missingForKube(toBeMade);
for (const line of lacks) console.error(`missing: ${line}`);
if (lacks.length > 0) console.error(`a real Kubernetes needs ${needs(toBeMade)}`);
if (lacks.length > 0) process.exit(1);
if (process.argv[2] !== 'check') await prepare();

async function prepare(): Promise<void> {
  say(`a real Kubernetes needs ${needs(toBeMade)}: all there`);
  for (const { what, minutes, make } of pieces) {
    say(`builds ${what}: once on this machine, about ${minutes} min`);
    await progress(what, make);
  }
  await progress('a wrapper for runc', runcWrapper);
  await progress('the kit’s C program', kubetool);
  const lower = await rootfs();
  await progress('images for tests', () => testImages(lower));
}
