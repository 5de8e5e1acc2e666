/** What `culvert lint` says of an object. */
import type { ManifestObject } from '../io.ts';

export type Severity =
  /** It would not be accepted. */
  | 'error'
  /** It is, and does not do what it seems to. */
  | 'warning'
  /** What it does that one may not expect. */
  | 'note';

export interface Finding {
  readonly file: string;
  readonly line: number | undefined;
  readonly severity: Severity;
  /** `AuthorizationPolicy shop/web`, or '' for a file. */
  readonly object: string;
  /** `spec.rules[0].from[0]`, or ''. */
  readonly path: string;
  readonly message: string;
}

export type Path = readonly (string | number)[];

/** Says something about a part of one object. */
export type Say = (severity: Severity, path: Path, message: string) => void;

/** A Say for `object` that puts findings into `findings`. */
export function sayOf(object: ManifestObject, title: string, findings: Finding[]): Say {
  return (severity, path, message) => {
    // zod names the parent of a field that should not be there.
    const field = /^Unrecognized keys?: "([^"]+)"/.exec(message)?.[1];
    findings.push({
      file: object.file,
      line: object.lineOf(field === undefined ? path : [...path, field]),
      severity,
      object: title,
      path: pathText(path),
      message: field === undefined ? message : message.replace(/^Unrecognized keys?/, 'unknown field'),
    });
  };
}

/** `from[0].source`. */
export function pathText(path: Path): string {
  return path
    .map((step) =>
      typeof step === 'number' ? `[${step}]` : /^[\w-]+$/.test(step) ? `.${step}` : `["${step}"]`,
    )
    .join('')
    .replace(/^\./, '');
}
