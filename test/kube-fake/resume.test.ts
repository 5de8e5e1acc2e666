import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Resume } from '../../daemon/kube/resume.ts';
import { KubeError } from '../../daemon/kube/seams.ts';

const SILENCE_MS = 150_000;

describe('whether a watch goes on where it was', () => {
  it('not for ever, where something between cuts each watch short before it has fallen silent', () => {
    const resume = new Resume(SILENCE_MS);
    const cutShort = new KubeError(0, 'ECONNRESET', 'reset');
    let watches = 1;
    while (resume.goesOn(watches % 2 === 0 ? cutShort : undefined, 35_000)) watches += 1;
    assert.equal(watches, 7);
    resume.heard();
    assert.equal(resume.goesOn(undefined, 35_000), true, 'a list or an event begins it anew');
  });

  it('however long a server is away that opens none', () => {
    const resume = new Resume(SILENCE_MS);
    const away = new KubeError(0, 'ECONNREFUSED', 'refused');
    for (let tries = 0; tries < 1_000; tries++) assert.equal(resume.goesOn(away, undefined), true);
  });

  it('not when refused three times in a row, whatever trouble is between', () => {
    const resume = new Resume(SILENCE_MS);
    const refused = new KubeError(400, 'BadRequest', 'refused');
    const busy = new KubeError(429, 'TooManyRequests', 'busy');
    assert.deepEqual(
      [refused, busy, refused, busy].map((error) => resume.goesOn(error, undefined)),
      [true, true, true, true],
    );
    assert.equal(resume.goesOn(refused, undefined), false);
  });
});
