/** A daemon's start, for the test that starts several at once: opens the CA folder, prints the root. */
import { LocalCa } from '../../daemon/identity/sources/local.ts';
import { systemClock } from '../../daemon/identity/clock.ts';
import { TRUST_DOMAIN } from './forge.ts';

process.stdin.once('data', () => {
  void LocalCa.open({ folder: process.argv[2] ?? '', trustDomain: TRUST_DOMAIN, clock: systemClock })
    .then((ca) => ca.roots())
    .then((roots) => {
      process.stdout.write(roots);
      process.exit(0);
    });
});
process.stdout.write('loaded\n');
