/** LIMITS.md, made from the table of knobs and the fixed limits below. */
import { KNOBS, KNOB_NAMES, envOf, flagOf } from '../config.ts';
import type { KnobName } from '../config.ts';
import { GROUPS } from './knob-flags.ts';

/** A limit that no setting moves. */
interface FixedLimit {
  readonly title: string;
  readonly text: string;
}

const FIXED: readonly FixedLimit[] = [
  {
    title: 'Listener ports in a pod',
    text: `Each pod has one listening socket for each role (outbound, plaintext in, mTLS in) and each worker, on ports from ${flagOf('listenerPortMin')} to ${flagOf('listenerPortMax')} that lie above the pod's \`ip_local_port_range\` and are none of its declared containerPorts. An app can not listen on the ports that are taken, and a connection to one of them is refused (\`OWN_LISTENER\`). Port 15008 is steered, not bound: what an app listens to there is not reached from outside.`,
  },
  {
    title: 'File descriptors for listeners',
    text: 'pods × roles × workers × 2, since the enrolment thread keeps a copy of each: 110 pods × 3 × 4 workers × 2 = 2,640.',
  },
  {
    title: 'File descriptors for connections',
    text: `A connection through a tunnel holds one descriptor on each node, and a share of the tunnel's; one that is passed in the clear, or arrives so, holds two. Set the open-file limit of the daemon to listeners + 2 × connections + 1,000; ${flagOf('maxConnections')} 0 takes what the limit allows. 'culvert check' reports the limit.`,
  },
  {
    title: 'Outbound IPv6 connections of one pod',
    text: 'The redirected address is ::1, and there is only one: at most 28,232 connections at once for each listener port, so for each worker (the default range of ephemeral ports). IPv4 spreads over many addresses of 127.0.0.0/8 and has no such bound.',
  },
  {
    title: 'What an app can notice',
    text: 'getpeername() gives the address that was dialled, on both ends. getsockname() of a captured client shows 127.x.y.z or ::1; `ss` inside the pod shows the proxy. With MPTCP getpeername() shows the redirected address too. connect() to the mesh succeeds at once; a refusal is a reset after it.',
  },
  {
    title: 'Pods with CAP_NET_RAW',
    text: 'Such a pod can craft packets around its own capture (raw and packet sockets). It gains no identity by that: a destination in mode STRICT refuses it. Drop the capability where a pod does not need it (Pod Security `restricted` does).',
  },
  {
    title: 'UDP and other protocols',
    text: 'Only TCP is carried; everything else passes untouched and in the clear.',
  },
  {
    title: 'kubelet restarted while the daemon is dead',
    text: "Host probes are known by the kubelet's cgroup. When the kubelet gets a new one while no daemon runs, probes of STRICT pods fail until the daemon is back.",
  },
  {
    title: 'k3s',
    text: 'The kubelet shares one process with the whole of k3s there, so every connection of that process to a pod of its node counts as a host probe.',
  },
  {
    title: 'When the daemon is not there',
    text: "A node's boot until the daemon's first reconcile, and a pod that starts while no daemon runs, are not covered; such a pod's sockets are cut when it is enrolled. Enrolled pods stay captured: their new connections are refused, not sent in the clear.",
  },
  {
    title: 'Runtimes without a sandbox process',
    text: "A pod's network namespace is found through its oldest process, the sandbox's (pause). With a runtime that keeps none (CRI-O's drop_infra_ctr) that is the app itself: it starts guarded, and its first connects get EPERM until its namespace is captured.",
  },
  {
    title: 'A starved enrolment thread',
    text: "A starting pod is guarded by its cgroup until its listeners are open. On a node so busy that the enrolment thread gets no CPU meanwhile, a Job's first connect gets EPERM instead of being held; one that starts before the thread has seen its cgroup is counted as unguarded, and its sockets are cut.",
  },
  {
    title: 'Labels that can not be read',
    text: 'A pod that was enrolled stays so until its label was read as absent: a namespace whose object is broken, not there yet, or gone before its pods changes nothing, and culvert status says so. A new pod whose object or namespace has not been read yet is closed both ways for unknownPodHold at most; then it is left alone until they have been, and counted as unguarded when it was to be meshed. Static pods are never waited for: no object of the API has the UID of their cgroup. A folder (--cluster-dir) that loses all of its objects keeps its last state; one emptied more slowly than a second in all is believed file by file.',
  },
  {
    title: 'Uninstalling one node',
    text: "While the label stands elsewhere, other nodes go on dialling a node's pods as meshed ones, and are refused. Take the label off first, or uninstall every node (culvert uninstall); cleanup --node is for a node whose daemon is gone.",
  },
  {
    title: 'Kernels',
    text: 'Developed and tested on 6.18. 5.15 is the first that has all that the programs use, by its documentation; the preflight asks the running kernel where it can, but no kernel older than 6.18 has been tried. Keep the DaemonSet off nodes that cannot have a daemon (nodeAffinity): a rotation of the root waits for every daemon pod whose node is Ready, also for one that never starts.',
  },
  {
    title: 'HTTP policies',
    text: `Only ports for which a policy has HTTP fields are looked into. There a client that says nothing for ${flagOf('sniffTimeout')} counts as not speaking HTTP, also a browser's connection opened ahead of need. A head may have 64 KiB and 100 fields; lower-case methods, raw bytes beyond ASCII in targets, equal duplicates of Content-Length, codings other than chunked and chunks over 2 GiB get 400. HTTP/2: 100 streams at once with 128 KiB each way, 1,000 resets at once and 200 a second. Trailers are not judged. A policy reaches nodes up to 20 s after its kind was added to a cluster that had none; above 300 nodes that grows (1,000: 67 s).`,
  },
  {
    title: 'Tools on files',
    text: 'culvert lint, why and svid verify read 16 MiB of a file and 200,000 objects at most; a line of why --batch has 16 MiB at most.',
  },
  {
    title: 'Metrics',
    text: `Each metric keeps ${flagOf('metricSeries')} label sets; the longest unused makes room, counted by culvert_metric_series_evicted_total. /metrics is made at most every 5 s.`,
  },
  {
    title: 'culvert status',
    text: 'Keeps the last 5 kinds of refusals of a pod, of 512 pods.',
  },
  {
    title: 'Admin, metrics and health servers',
    text: '512 connections each, 16 of one address, 8 KiB of headers, 5 s for a request and for its answer; no request has a body.',
  },
];

/** The whole of LIMITS.md. */
export function limitsMarkdown(): string {
  const sections = Object.entries(GROUPS).map(([group, title]) => {
    const names = KNOB_NAMES.filter((name) => KNOBS[name].group === group);
    return `### ${title}\n\n${markdownTable(['Flag', 'Environment', 'Default', 'Unit', 'Meaning'], names.map(knobRow))}`;
  });
  const fixed = FIXED.map(({ title, text }) => `### ${title}\n\n${text}\n`);
  return [
    '<!-- Made by `culvert limits --markdown` from daemon/config.ts and daemon/cli/limits.ts; do not edit. -->',
    '# Limits',
    'Every setting that bounds something, and every bound that no setting moves.',
    '## Settings',
    'A flag of `culvert daemon` wins over its environment variable. Durations are written 500ms, 10s, 5m, 24h, 7d.',
    ...sections,
    '## Fixed',
    ...fixed,
  ]
    .map((part) => part.trimEnd())
    .join('\n\n')
    .concat('\n');
}

function knobRow(name: KnobName): readonly string[] {
  const { fallback, unit, doc } = KNOBS[name];
  return [`\`${flagOf(name)}\``, `\`${envOf(name)}\``, fallback === '' ? '' : `\`${fallback}\``, unit, doc];
}

function markdownTable(headings: readonly string[], rows: readonly (readonly string[])[]): string {
  const lines = [headings, headings.map(() => '---'), ...rows].map(
    (row) => `| ${row.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`,
  );
  return lines.join('\n');
}
