/** The command line of make bench. */
import { parseArgs } from 'node:util';

export const PARTS = ['bulk', 'requests', 'connections', 'memory', 'matrix', 'enrol', 'hot'] as const;
export type Part = (typeof PARTS)[number];

export interface Options {
  readonly rounds: number;
  readonly seconds: number;
  readonly parts: readonly Part[];
  /** Where the JSON goes. */
  readonly json: string;
  readonly isLong: boolean;
  /** Most connections held for the memory figure. */
  readonly held: number;
  readonly enrolPods: number;
  /** Client pods, and as many server pods, of the cold matrix. */
  readonly matrixPods: number;
  readonly daemonFlags: readonly string[];
  /** Folder for CPU profiles of our daemons; ''. */
  readonly profile: string;
}

export const HELP = `make bench, or node test/bench/main.ts [flags]   (as root)

  --rounds N         rounds of every candidate in turn; medians are printed (default 3)
  --seconds S        length of one measurement (default 4)
  --only WHAT,…      of ${PARTS.join(', ')}
  --json FILE        default .stamp/bench.json
  --quick            one round of one second, little memory, few pods: about two minutes
  --long             also CULVERT_LONG=1: the cold matrix, 15,000 held connections, 100 pods to enrol
  --daemon-flags F   added to our daemon's command line
  --profile DIR      CPU profiles of our daemons' threads, one for each figure; the figures are then not to be quoted
  --help

PEER_ZTUNNEL=path brings the ztunnel to compare with.`;

/** @throws RangeError or TypeError, with a sentence for the person, when the words make no sense. */
export function parseOptions(argv: readonly string[], env: NodeJS.ProcessEnv): Options | 'help' {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      rounds: { type: 'string' },
      seconds: { type: 'string' },
      only: { type: 'string' },
      json: { type: 'string', default: '.stamp/bench.json' },
      quick: { type: 'boolean', default: false },
      long: { type: 'boolean', default: env['CULVERT_LONG'] === '1' },
      'daemon-flags': { type: 'string', default: '' },
      profile: { type: 'string', default: '' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return 'help';
  const size = values.quick ? SIZES.quick : values.long ? SIZES.long : SIZES.usual;
  const usual = PARTS.filter((part) => part !== 'matrix' || values.long);
  return {
    ...size,
    rounds: positive('--rounds', values.rounds, size.rounds),
    seconds: positive('--seconds', values.seconds, size.seconds),
    parts: values.only === undefined ? usual : values.only.split(',').map(partOf),
    json: values.json,
    isLong: values.long,
    daemonFlags: values['daemon-flags'].split(' ').filter((word) => word !== ''),
    profile: values.profile,
  };
}

const SIZES = {
  quick: { rounds: 1, seconds: 1, held: 2_000, enrolPods: 10, matrixPods: 3 },
  usual: { rounds: 3, seconds: 4, held: 5_000, enrolPods: 30, matrixPods: 5 },
  long: { rounds: 5, seconds: 5, held: 15_000, enrolPods: 100, matrixPods: 12 },
} as const;

function positive(flag: string, text: string | undefined, fallback: number): number {
  if (text === undefined) return fallback;
  const value = Number(text);
  if (!(value > 0 && value <= 1_000)) throw new RangeError(`${flag} ${text}: a number from 1 to 1000`);
  return value;
}

function partOf(text: string): Part {
  const part = PARTS.find((one) => one === text);
  if (part === undefined) throw new RangeError(`--only ${text}: one of ${PARTS.join(', ')}`);
  return part;
}
