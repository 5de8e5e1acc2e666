/**
 * Where our maps and links are pinned, and links that survive us. bpffs: no dots in names, one folder a layout:
 * `<bpffs>/culvert/v<LAYOUT>/{maps,links,netns,pending}/<name>`.
 */
import { mkdirSync, readdirSync, rmdirSync, unlinkSync } from 'node:fs';
import path from 'node:path';
import { MeshError } from '../errors.ts';
import { closeFd, createLink, detachLink, linkInfo, openPin, pin, updateLink } from './libbpf.ts';

/** Kinds of pins: `links` on cgroups of the node, `netns` and `pending` one per pod, by its UID. */
export const PIN_FOLDERS = ['maps', 'links', 'netns', 'pending'] as const;
export type PinFolder = (typeof PIN_FOLDERS)[number];

/** What a link joins: the program, and the descriptor and kernel id (cgroup id, netns inode) of what it is on. */
export interface Attachment {
  readonly program: { readonly fd: number; readonly attachType: number };
  readonly targetFd: number;
  readonly targetId: bigint;
}

export class Pins {
  readonly directory: string;
  readonly #base: string;

  constructor(bpffs: string, layout: number) {
    this.#base = path.join(bpffs, 'culvert');
    this.directory = path.join(this.#base, `v${layout}`);
  }

  /** @throws MeshError PIN_FAILED when the file system is not there or not a bpffs we may write. */
  create(): void {
    try {
      for (const folder of PIN_FOLDERS)
        mkdirSync(path.join(this.directory, folder), { recursive: true, mode: 0o700 });
    } catch (cause) {
      throw new MeshError('PIN_FAILED', `could not make ${this.directory}: is a bpffs mounted there?`, {
        cause,
      });
    }
  }

  path(folder: PinFolder, name: string): string {
    return path.join(this.directory, folder, name);
  }

  /** Names pinned in a folder; empty when there is no such folder. */
  list(folder: PinFolder): string[] {
    return namesIn(path.join(this.directory, folder));
  }

  /**
   * Makes the pinned link be `to`: swaps the program atomically when the link is on that target already; else makes
   * a new link in place of one whose target is gone or another. @throws MeshError BPF_ATTACH_FAILED, PIN_FAILED
   */
  attach(folder: PinFolder, name: string, to: Attachment): void {
    const file = this.path(folder, name);
    const existing = openPin(file);
    if (existing !== undefined) {
      try {
        if (linkInfo(file, existing).target === to.targetId) {
          updateLink(file, existing, to.program.fd);
          return;
        }
      } finally {
        closeFd(existing);
      }
    }
    const fd = createLink(file, to.program.fd, to.targetFd, to.program.attachType);
    try {
      if (existing !== undefined) this.detach(folder, name);
      pin(fd, file);
    } finally {
      closeFd(fd);
    }
  }

  /** Swaps the program of a pinned link, whatever it is on; one whose target is gone is removed. */
  refresh(folder: PinFolder, name: string, programFd: number): void {
    const file = this.path(folder, name);
    const fd = openPin(file);
    if (fd === undefined) return;
    try {
      if (linkInfo(file, fd).target === 0n) unlinkSync(file);
      else updateLink(file, fd, programFd);
    } finally {
      closeFd(fd);
    }
  }

  /** Cuts a pinned link from its target and removes the pin. @returns whether there was one. */
  detach(folder: PinFolder, name: string): boolean {
    const file = this.path(folder, name);
    const fd = openPin(file);
    if (fd === undefined) return false;
    try {
      detachLink(file, fd);
      unlinkSync(file);
    } finally {
      closeFd(fd);
    }
    return true;
  }

  /** Detaches all links, then drops all maps and the folders, ours and the empty one above. */
  removeAll(): void {
    for (const folder of ['netns', 'pending', 'links'] as const)
      for (const name of this.list(folder)) this.detach(folder, name);
    for (const name of this.list('maps')) unlinkSync(this.path('maps', name));
    for (const folder of PIN_FOLDERS) removeFolder(path.join(this.directory, folder));
    removeFolder(this.directory);
    if (namesIn(this.#base).length === 0) removeFolder(this.#base);
  }
}

/** Layout numbers of all versions of us that have pins below `bpffs`. */
export function pinnedLayouts(bpffs: string): number[] {
  return namesIn(path.join(bpffs, 'culvert'))
    .filter((name) => /^v\d+$/.test(name))
    .map((name) => Number(name.slice(1)));
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch (error) {
    if (isNotFound(error)) return [];
    throw error;
  }
}

function removeFolder(directory: string): void {
  try {
    rmdirSync(directory);
  } catch (error) {
    if (!isNotFound(error)) throw error;
  }
}

function isNotFound(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT';
}
