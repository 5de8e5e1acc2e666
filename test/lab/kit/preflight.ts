/** What the lab needs of the machine, said all at once and before anything is made. */
import { existsSync, readFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { cgroup2Mount } from './cgroups.ts';

const PROGRAMS = {
  ip: 'iproute2',
  nsenter: 'util-linux',
  nft: 'nftables',
  tcpdump: 'tcpdump',
  gcc: 'gcc',
} as const;

/** One line for each missing thing; empty when a lab can be made here. */
export function missing(): string[] {
  const found: string[] = [];
  if (process.getuid?.() !== 0) found.push('root: namespaces and BPF need it; run as root');
  for (const [program, debianPackage] of Object.entries(PROGRAMS))
    if (!isInstalled(program)) found.push(`${program}: run make setup, or apt-get install ${debianPackage}`);
  try {
    if (!existsSync(join(cgroup2Mount(), 'cgroup.procs')))
      found.push('cgroup v2: its mount has no cgroup.procs');
  } catch (error) {
    found.push(`cgroup v2: ${error instanceof Error ? error.message : 'not found'}`);
  }
  if (!/\bbpf$/m.test(readFileSync('/proc/filesystems', 'utf8')))
    found.push('BPF: this kernel has no bpf file system (CONFIG_BPF_SYSCALL)');
  if (!existsSync('/sys/kernel/btf/vmlinux'))
    found.push('BPF: no /sys/kernel/btf/vmlinux (CONFIG_DEBUG_INFO_BTF)');
  return found;
}

function isInstalled(program: string): boolean {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin'];
  return folders.some((folder) => existsSync(join(folder, program)));
}
