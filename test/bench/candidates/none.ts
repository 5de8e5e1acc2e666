/** No mesh: the app dials the app, in the clear, through the same links. */
import { directTargets, makeSite } from './candidate.ts';
import type { Candidate, StartOptions } from './candidate.ts';

export async function startNone(options: StartOptions): Promise<Candidate> {
  const site = await makeSite(options, 'none');
  const config = 'in the clear, pod to pod';
  return { name: 'none', config, clients: site.clients, ...directTargets(site), near: [], far: [] };
}
