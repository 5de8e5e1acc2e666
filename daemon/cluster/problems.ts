/** How problems of a source read in `culvert status` and in the log. Pure. */
import type { SourceProblem } from '../mesh/model.ts';

/** One line: `file:line: reason`, as compilers write it so that editors can jump there. */
export function formatProblem({ where, line, reason }: SourceProblem): string {
  return printable(line === undefined ? `${where}: ${reason}` : `${where}:${line}: ${reason}`);
}

/** Problems may quote a file: no control character of it reaches a terminal or starts a line of its own. */
function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, '?').slice(0, 1_000);
}
