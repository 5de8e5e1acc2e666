/** `culvert limits`: every knob and every fixed limit. */
import type { Command } from 'commander';
import { KNOBS, KNOB_NAMES, envOf, flagOf } from '../../config.ts';
import type { Context } from '../io.ts';
import { limitsMarkdown } from '../limits.ts';
import { table } from '../table.ts';

export function addLimits(program: Command, { io, finish }: Context): void {
  program
    .command('limits')
    .description('list every setting with its default; with --markdown the page LIMITS.md')
    .option('--markdown', 'print LIMITS.md, fixed limits included')
    .action((options: { readonly markdown?: true }) => {
      io.out(options.markdown === true ? limitsMarkdown() : knobTable());
      finish(0);
    });
}

function knobTable(): string {
  const rows = KNOB_NAMES.map((name) => {
    const { fallback, unit, doc } = KNOBS[name];
    return [flagOf(name), envOf(name), fallback, unit, doc];
  });
  return table(['FLAG', 'ENVIRONMENT', 'DEFAULT', 'UNIT', 'MEANING'], rows, false);
}
