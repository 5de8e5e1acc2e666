/** `culvert daemon`: the daemon itself, in the foreground. */
import type { Command } from 'commander';
import { KNOB_NAMES, parseConfig } from '../../config.ts';
import type { Context } from '../io.ts';
import { addKnobs, knobsGiven } from '../knob-flags.ts';

export function addDaemon(program: Command, { io, finish }: Context): void {
  const command = program
    .command('daemon')
    .description('run the daemon of one node in the foreground')
    .addHelpText('after', '\nA flag wins over its environment variable. Durations: 500ms, 10s, 5m, 24h, 7d.');
  addKnobs(command, KNOB_NAMES);
  command.action(async (flags: Readonly<Record<string, unknown>>) => {
    await io.entryPoints.startDaemon(parseConfig(knobsGiven(flags, KNOB_NAMES), io.env));
    finish(0);
  });
}
