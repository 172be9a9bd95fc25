import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { type Finding, shellWord } from './access.ts';

/** A security module that confines QEMU beyond modes. */
export type SecurityModule = 'selinux' | 'apparmor';

/** The one that is in force here, with libvirt's rules for QEMU. */
export function securityModule(): SecurityModule | undefined {
  if (readText('/sys/fs/selinux/enforce').trim() === '1') return 'selinux';
  const on = readText('/sys/module/apparmor/parameters/enabled').startsWith('Y');
  return on && existsSync('/etc/apparmor.d/libvirt') ? 'apparmor' : undefined;
}

/** Types that SELinux's policy lets QEMU use, before libvirt gives a disk its own label. */
const qemuTypes = ['svirt_image_t', 'virt_image_t', 'virt_content_t', 'svirt_t', 'virt_var_lib_t'];
/** Types of file systems without labels, and the switch that lets QEMU use what is on them. */
const unlabelled: Readonly<Record<string, string>> = {
  nfs_t: 'virt_use_nfs',
  cifs_t: 'virt_use_samba',
  fusefs_t: 'virt_use_fusefs',
};
/** What libvirt's helper for AppArmor never lets into a guest's profile. */
const refusedFolders = /^\/(bin|etc|lib|lib64|lost\+found|proc|sbin|selinux|sys|usr\/(bin|lib|sbin))\//;

/** What the module would hold against QEMU opening the file. `label` is for tests: a file's SELinux label. */
export function moduleFindings(
  path: string,
  module: SecurityModule | undefined,
  relabelled: boolean,
  label: (path: string) => string | undefined = selinuxLabel,
): readonly Finding[] {
  if (module === 'apparmor' && refusedFolders.test(path)) {
    const what = 'AppArmor: libvirt lets no guest have a file in this folder';
    return [{ path, what, fix: `mv ${shellWord(path)} /var/lib/libvirt/images/   # and tell the lab file` }];
  }
  if (module !== 'selinux') return [];
  const found = label(path);
  const type = found?.split(':')[2];
  const boolean = type && unlabelled[type];
  if (boolean) {
    if (readText(`/sys/fs/selinux/booleans/${boolean}`).startsWith('1')) return [];
    const what = `SELinux: its file system has no labels (${type}), and QEMU may use none of these here`;
    return [{ path, what, fix: `setsebool -P ${boolean} on` }];
  }
  if (relabelled || type === undefined || qemuTypes.includes(type)) return [];
  const word = shellWord(path);
  return [
    {
      path,
      what: `SELinux: its type is ${type}, which QEMU may not open`,
      fix: `semanage fcontext -a -t virt_content_t ${word} && restorecon ${word}`,
    },
  ];
}

function selinuxLabel(path: string): string | undefined {
  const { status, stdout } = spawnSync('stat', ['-c', '%C', path], { encoding: 'utf8' });
  return status === 0 ? stdout.trim() : undefined;
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
