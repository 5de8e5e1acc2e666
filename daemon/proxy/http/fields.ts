/** Fields of HTTP/1 messages: read strictly (RFC 9110 section 5, RFC 9112 section 5), written in one form. Pure. */
import type { HttpLimits } from './limits.ts';
import { refused } from './refusal.ts';
import type { Refused } from './refusal.ts';

export interface Field {
  readonly name: string;
  /** The name in lower case. */
  readonly key: string;
  readonly value: string;
}

const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
/** Control characters other than TAB; bytes are read as Latin-1. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: that is what it looks for
const BAD_VALUE = /[^\t\x20-\x7e\x80-\xff]/;
const OUTER_SPACE = /^[ \t]+|[ \t]+$/g;

/** Names that gateways to CGI and its heirs read as the ones that frame a message. */
const LOOK_ALIKES: ReadonlySet<string> = new Set(['content-length', 'transfer-encoding', 'host']);

export function isToken(text: string): boolean {
  return TOKEN.test(text);
}

/** Reads lines without their CRLF. No folding, no space before the colon, no control characters. */
export function parseFields(lines: readonly string[], limits: HttpLimits): Field[] | Refused {
  if (lines.length > limits.fields) return refused('too many fields', 431);
  const fields: Field[] = [];
  for (const line of lines) {
    const colon = line.indexOf(':');
    const name = line.slice(0, Math.max(colon, 0));
    if (!TOKEN.test(name)) return refused('a line of the head is no field');
    const value = line.slice(colon + 1).replace(OUTER_SPACE, '');
    if (BAD_VALUE.test(value)) return refused('a control character in a field');
    const key = name.toLowerCase();
    if (key.includes('_') && LOOK_ALIKES.has(key.replaceAll('_', '-')))
      return refused('a field that may pass for another');
    fields.push({ name, key, value });
  }
  return fields;
}

/** The value of a field that may come once; undefined when it is missing. */
export function only(fields: readonly Field[], key: string): string | undefined | Refused {
  let found: string | undefined;
  for (const field of fields) {
    if (field.key !== key) continue;
    if (found !== undefined) return refused(`${key} comes twice`);
    found = field.value;
  }
  return found;
}

/** The members of a list field in lower case, of all its lines. */
export function listed(fields: readonly Field[], key: string): string[] {
  const members: string[] = [];
  for (const field of fields) {
    if (field.key !== key) continue;
    for (const member of field.value.split(',')) members.push(member.trim().toLowerCase());
  }
  return members;
}

/** The head as it goes on: `Name: value`, in the order and case in which it came. */
export function writeHead(startLine: string, fields: readonly Field[]): Buffer {
  let text = `${startLine}\r\n`;
  for (const { name, value } of fields) text += `${name}: ${value}\r\n`;
  return Buffer.from(`${text}\r\n`, 'latin1');
}

/** The fields as policies see them: names in lower case, repeated ones joined. */
export function fieldMap(fields: readonly Field[]): Map<string, string> {
  const map = new Map<string, string>();
  for (const { key, value } of fields) {
    const text = asText(value);
    const before = map.get(key);
    map.set(key, before === undefined ? text : `${before},${text}`);
  }
  return map;
}

/** Policies are UTF-8; bytes that are not stay distinct enough never to match. */
function asText(latin1: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: all of ASCII
  return /^[\x00-\x7f]*$/.test(latin1) ? latin1 : Buffer.from(latin1, 'latin1').toString('utf8');
}
