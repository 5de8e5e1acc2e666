/**
 * One change to what Kubernetes is built of. A node of ours has a cgroup without controllers: there is nothing to set
 * a limit with. A kubelet that starts for the first time goes past that; one that comes back would end for it, because
 * it sets anew what it finds. The build takes a copy of the module with two more lines; go.mod in the tree has none of it.
 */
import { chmodSync, copyFileSync, cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { must } from '../../support/run.ts';

const MODULE = 'github.com/opencontainers/cgroups';
const FILE = 'fs2/fs2.go';
const AFTER = `	if err := m.getControllers(); err != nil {
		return err
	}
	// pids (since kernel 4.5)
`;
const INSERTED = `	if len(m.controllers) == 0 {
		return nil
	}
`;

const Downloaded = z.object({ Dir: z.string() });

/** Part of the key of a build. */
export const CHANGE = `${MODULE}/${FILE}\n${AFTER}\n${INSERTED}`;

/**
 * Copies the module, changed, into `folder` with a go.mod of its own that says so; gives that file's path, for
 * `go build -modfile`. @throws Error when the module is not what it was.
 */
export async function changedModfile(
  folder: string,
  goModule: string,
  env: NodeJS.ProcessEnv,
): Promise<string> {
  const download = ['go', 'mod', 'download', '-json', MODULE];
  const found = Downloaded.parse(
    JSON.parse(await must(download, { cwd: goModule, env, timeoutMs: 600_000 })),
  );
  const copy = join(folder, 'cgroups');
  cpSync(found.Dir, copy, { recursive: true });
  const parts = readFileSync(join(copy, FILE), 'utf8').split(AFTER);
  if (parts.length !== 2)
    throw new Error(`${MODULE}/${FILE} is not what it was: see ${import.meta.filename}`);
  chmodSync(join(copy, FILE), 0o644);
  writeFileSync(join(copy, FILE), parts.join(AFTER + INSERTED));
  const modfile = join(folder, 'go.mod');
  const text = readFileSync(join(goModule, 'go.mod'), 'utf8');
  writeFileSync(modfile, `${text}\nreplace ${MODULE} => ${copy}\n`);
  copyFileSync(join(goModule, 'go.sum'), join(folder, 'go.sum'));
  return modfile;
}
