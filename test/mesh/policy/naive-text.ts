/** How text and paths match, by regular expressions (SEMANTICS.md 1.4, 1.8). */

export function matchesText(pattern: string, value: string): boolean {
  if (pattern === '*') return value.length > 0;
  if (pattern.startsWith('*')) return new RegExp(`${quoted(pattern.slice(1))}$`).test(value);
  if (pattern.endsWith('*')) return new RegExp(`^${quoted(pattern.slice(0, -1))}`).test(value);
  return pattern === value;
}

export function matchesPath(pattern: string, path: string): boolean {
  if (!/\{\*\*?\}/.test(pattern)) return matchesText(pattern, path);
  const segments = pattern
    .split('/')
    .map((one) => (one === '{*}' ? '[^/]+' : one === '{**}' ? '.*' : quoted(one)));
  return new RegExp(`^${segments.join('/')}$`, 's').test(path);
}

function quoted(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\\-]/g, '\\$&');
}

/** The table of 1.8, step by step; the query stays as it is. */
export function normalize(target: string, how: string): string {
  const [, path = '', rest = ''] = /^([^?#]*)(.*)$/s.exec(target) ?? [];
  if (how === 'NONE') return target;
  let text = path;
  if (how === 'DECODE_AND_MERGE_SLASHES')
    text = text
      .split(/%2[fF]/)
      .join('/')
      .split(/%5[cC]/)
      .join('\\');
  text = text.replace(/%(2[dDeE]|3[0-9]|4[1-9a-fA-F]|5[0-9aAfF]|6[1-9a-fA-F]|7[0-9aAeE])/g, (escape) =>
    decodeURIComponent(escape),
  );
  text = withoutDots(text.split('\\').join('/'));
  while (how !== 'BASE' && text.includes('//')) text = text.replace('//', '/');
  return text + rest;
}

/** RFC 3986 section 5.2.4, its buffers and steps. */
function withoutDots(path: string): string {
  let input = path;
  let output = '';
  while (input !== '') {
    if (input.startsWith('/./') || input === '/.') input = `/${input.slice(3)}`;
    else if (input.startsWith('/../') || input === '/..') {
      input = `/${input.slice(4)}`;
      output = output.slice(0, Math.max(0, output.lastIndexOf('/')));
    } else {
      const next = input.indexOf('/', 1);
      const end = next < 0 ? input.length : next;
      output += input.slice(0, end);
      input = input.slice(end);
    }
  }
  return output;
}
