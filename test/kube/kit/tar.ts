/** Writes ustar archives: root owns everything, time stands still, so that the same files give the same bytes. */

export interface TarEntry {
  /** At most 100 bytes; a folder's ends in `/`. */
  readonly path: string;
  readonly bytes?: Uint8Array;
  /** Default 0644; folders 0755. */
  readonly mode?: number;
  /** Target of a symbolic link. */
  readonly link?: string;
}

const BLOCK = 512;

export function tar(entries: readonly TarEntry[]): Buffer {
  const parts = entries.flatMap((entry) => [header(entry), ...content(entry.bytes)]);
  return Buffer.concat([...parts, Buffer.alloc(2 * BLOCK)]);
}

function header({ path, bytes, mode, link }: TarEntry): Buffer {
  const isFolder = path.endsWith('/');
  const block = Buffer.alloc(BLOCK);
  const octal = (value: number, at: number, length: number): void => {
    block.write(value.toString(8).padStart(length - 1, '0'), at);
  };
  block.write(path, 0, 100);
  octal(mode ?? (isFolder ? 0o755 : 0o644), 100, 8);
  octal(0, 108, 8);
  octal(0, 116, 8);
  octal(bytes?.length ?? 0, 124, 12);
  octal(0, 136, 12);
  // The checksum is summed with spaces in its place.
  block.write('        ', 148);
  block.write(link !== undefined ? '2' : isFolder ? '5' : '0', 156);
  block.write(link ?? '', 157, 100);
  block.write('ustar\x0000', 257, 'latin1');
  octal(
    block.reduce((sum, byte) => sum + byte, 0),
    148,
    7,
  );
  return block;
}

function content(bytes: Uint8Array = new Uint8Array(0)): Uint8Array[] {
  const rest = bytes.length % BLOCK;
  return rest === 0 ? [bytes] : [bytes, Buffer.alloc(BLOCK - rest)];
}
