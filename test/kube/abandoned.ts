/** What a cluster leaves behind whose owner ends without a word. */
import { run } from '../support/run.ts';

const KINDS = {
  ControlPlane: { file: './kit/control-plane.ts', home: 'it.home' },
  KubeCluster: { file: './kit/cluster.ts', home: 'it.controlPlane.home' },
} as const;

/**
 * Starts one in a process of its own, which a signal ends as soon as it is up: SIGINT is a person's Ctrl-C. Gives the
 * paths of its folder and its cgroup, which are to go.
 */
export async function abandoned(
  kind: keyof typeof KINDS,
  signal: 'SIGKILL' | 'SIGINT',
): Promise<readonly string[]> {
  const { file, home } = KINDS[kind];
  const script = `import { ${kind} } from ${JSON.stringify(new URL(file, import.meta.url).href)};
    const it = await ${kind}.start();
    console.log(${home}.dir, ${home}.cgroup);
    process.kill(process.pid, '${signal}');
    setInterval(() => undefined, 1_000);`;
  const argv = [process.execPath, '--input-type=module', '-e', script];
  const ended = await run(argv, { timeoutMs: 180_000 });
  const paths = ended.stdout.trim().split(' ');
  if (ended.signal !== signal || paths.length !== 2) throw new Error(`it ended otherwise: ${ended.stderr}`);
  return paths;
}
