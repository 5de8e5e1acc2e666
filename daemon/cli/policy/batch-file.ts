/** Judges a file of cases line by line: any size, one answer a line, in the file's order. */
import type { ExitCode, Io } from '../io.ts';
import { answerLine } from './batch.ts';
import { openInput, unreadable } from './input.ts';
import { linesOf } from './lines.ts';

/**
 * Prints the answers to the cases of `file`; a line that is no case is answered by `{name, error}`, and told on stderr.
 * @returns 1 when there was such a line. @throws MeshError CONFIG_INVALID when the file can't be read.
 */
export async function judgeFile(io: Io, file: string): Promise<ExitCode> {
  const where = file === '-' ? 'standard input' : file;
  let code: ExitCode = 0;
  try {
    for await (const { number, text, problem } of linesOf(openInput(io, file))) {
      if (text?.trim() === '') continue;
      const answer = text === undefined ? { name: null, problem: problem ?? '' } : answerLine(text);
      if ('problem' in answer) {
        code = 1;
        io.err(`culvert why: ${where}:${number}: ${answer.problem}\n`);
        io.out(`${JSON.stringify({ name: answer.name, error: `line ${number}: ${answer.problem}` })}\n`);
      } else io.out(`${JSON.stringify(answer)}\n`);
    }
  } catch (error) {
    throw unreadable('--batch', error);
  }
  return code;
}
