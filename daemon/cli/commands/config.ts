/** `culvert config`: the daemon's configuration and its view of the mesh, without keys. */
import type { Command } from 'commander';
import { z } from 'zod';
import { ask, withAdmin } from '../client.ts';
import type { Context } from '../io.ts';

export function addConfig(program: Command, { io, finish }: Context): void {
  withAdmin(program.command('config'))
    .description("print the daemon's configuration and state of the mesh as JSON, without keys")
    .action(async (options: { readonly admin: string }) => {
      io.out(`${JSON.stringify(await ask(options.admin, '/config', z.unknown()), undefined, 2)}\n`);
      finish(0);
    });
}
