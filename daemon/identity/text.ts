/** Foreign text made fit for logs and errors. */

const MAX_EXCERPT = 200;
const NOT_PRINTABLE = /[^\x20-\x7e]/g;
const PEM = /-----BEGIN[\s\S]*?(?:-----END[A-Z ]*-----|$)/g;

/** What came from outside (a name, an error): short, on one line, escaped, and without any PEM block in it. */
export function excerpt(from: unknown): string {
  const text = from instanceof Error ? from.message : String(from);
  // Cut first, so that a huge text costs nothing; a PEM block that is cut in two still has its beginning.
  const safe = text
    .slice(0, 4 * MAX_EXCERPT)
    .replace(PEM, '[PEM removed]')
    .replace(NOT_PRINTABLE, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`);
  return safe.length > MAX_EXCERPT ? `${safe.slice(0, MAX_EXCERPT)}…` : safe;
}
