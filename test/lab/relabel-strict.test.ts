import { describe, it } from 'node:test';
import { coursesOf, runCourse, titleOf } from './relabel.ts';

describe('a namespace is labelled and unlabelled under load, strict', () => {
  for (const course of coursesOf('strict'))
    it(titleOf(course), { timeout: 180_000 + course.cycles * 60_000 }, async (context) => {
      context.diagnostic(await runCourse(course));
    });
});
