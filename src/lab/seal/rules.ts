import { walkTree } from '../../filesystems/tree.ts';
import { volumeName } from '../../filesystems/volumes.ts';
import type { GuestFile, GuestFiles } from './guest-files.ts';
import type { Finding } from './lint.ts';

/** Looks for one kind of thing. */
type Rule = (guest: GuestFiles) => Promise<readonly Finding[]>;

/** Files that a rule walks over: more than that is no question of a rule. */
const mostFiles = 10_000;

const machineId: Rule = async (guest) => {
  const findings: Finding[] = [];
  for (const path of ['/etc/machine-id', '/var/lib/dbus/machine-id']) {
    const link = await guest.find(path, { followLast: false });
    const text = (await guest.text(path))?.trim() ?? '';
    // dbus's is mostly a link to the other.
    if (link?.node.kind !== 'file' || text === '' || text === 'uninitialized') continue;
    findings.push({
      rule: 'machine-id',
      weight: 'clash',
      path,
      what: 'every clone would have the same machine ID: DHCP servers may give all of them one address',
      fix: path === '/etc/machine-id' ? 'truncate -s 0 /etc/machine-id' : `rm ${path}`,
      remedy: { do: path === '/etc/machine-id' ? 'empty' : 'remove', paths: [path] },
    });
  }
  return findings;
};

const sshHostKeys: Rule = async (guest) => {
  const all = (await guest.list('/etc/ssh')).filter(({ name }) => /^ssh_host_.*_key(\.pub)?$/.test(name));
  const keys = all.filter(({ name }) => name.endsWith('_key'));
  if (keys.length === 0) return [];
  return [
    {
      rule: 'ssh-host-keys',
      weight: 'clash',
      path: `/etc/ssh/${keys[0].name}`,
      what: `every clone would have the same ${keys.length} SSH host keys: whoever has one seat can pose as any other`,
      fix: 'rm /etc/ssh/ssh_host_*   (cloud-init makes new ones; else have "ssh-keygen -A" run at boot)',
      remedy: { do: 'remove', paths: all.map(({ name }) => `/etc/ssh/${name}`).sort() },
    },
  ];
};

const cloudInit: Rule = async (guest) => {
  const instances = await guest.list('/var/lib/cloud/instances');
  const instance = await guest.find('/var/lib/cloud/instance', { followLast: false });
  if (instances.length === 0 && !instance) return [];
  return [
    {
      rule: 'cloud-init',
      weight: 'clash',
      path: '/var/lib/cloud',
      what: 'cloud-init has run already: clones may think that they are set up',
      fix: 'cloud-init clean --logs',
      remedy: { do: 'clear', paths: ['/var/lib/cloud'] },
    },
  ];
};

const secrets: Rule = async (guest) => {
  const findings: Finding[] = [];
  for (const home of await homes(guest)) {
    for (const { name, node } of await guest.list(`${home}/.ssh`)) {
      if (node.kind !== 'file' || node.size === 0 || !/^id_[a-z0-9]+$/.test(name)) continue;
      findings.push({
        rule: 'private-keys',
        weight: 'clash',
        path: `${home}/.ssh/${name}`,
        what: 'a private key lies in every clone, readable to whoever holds one',
        fix: `rm ${home}/.ssh/${name} ${home}/.ssh/${name}.pub`,
      });
    }
  }
  return findings;
};

const randomSeed: Rule = (guest) =>
  present(guest, ['/var/lib/systemd/random-seed', '/var/lib/urandom/random-seed', '/var/lib/random-seed'], {
    rule: 'random-seed',
    weight: 'clash',
    what: 'every clone would begin with the same random seed',
    fix: (path) => `rm ${path}`,
  });

const persistentNet: Rule = (guest) =>
  present(guest, ['/etc/udev/rules.d/70-persistent-net.rules', '/etc/udev/rules.d/70-persistent-cd.rules'], {
    rule: 'udev',
    weight: 'clash',
    what: "it binds a name to the master's own hardware: clones would call their network card eth1",
    fix: (path) => `rm ${path}`,
  });

const leases: Rule = async (guest) => {
  const folders = [
    '/var/lib/dhcp',
    '/var/lib/dhclient',
    '/var/lib/dhcpcd',
    '/var/lib/NetworkManager',
    '/var/lib/dhcpcd5',
  ];
  const findings: Finding[] = [];
  for (const folder of folders) {
    const found = (await guest.list(folder)).filter(
      ({ name, node }) => node.kind === 'file' && node.size > 0 && /leases?$|^secret_key$|^duid$/.test(name),
    );
    if (found.length === 0) continue;
    findings.push({
      rule: 'leases',
      weight: 'clash',
      path: `${folder}/${found[0].name}`,
      what: "clones would ask for the master's address",
      fix: `rm ${found.map(({ name }) => `${folder}/${name}`).join(' ')}`,
      remedy: { do: 'remove', paths: found.map(({ name }) => `${folder}/${name}`) },
    });
  }
  return findings;
};

const swap: Rule = async (guest) => {
  const findings: Finding[] = [];
  for (const { volume, system, damage } of guest.volumes) {
    if (system || damage !== undefined || volume.length < 4096) continue;
    const mark = new Uint8Array(10);
    await volume.bytes.read(4086, mark);
    const text = new TextDecoder('latin1').decode(mark);
    const path = volumeName(volume);
    if (/^(S1SUSPEND|ULSUSPEND|LINHIB)/.test(text)) {
      findings.push({
        rule: 'swap',
        weight: 'clash',
        path,
        what: 'a hibernated system lies in the swap space: every clone would wake up as the master',
        fix: 'boot it and shut it down, instead of hibernating',
      });
    } else if (text === 'SWAPSPACE2' && !(await readsAsZero(volume.bytes, volume.length))) {
      findings.push({
        rule: 'swap',
        weight: 'stale',
        path,
        what: "the swap space holds old memory of the master's, passwords perhaps, and takes room",
        fix: `swapoff -a; U=$(blkid -s UUID -o value DEVICE); dd if=/dev/zero of=DEVICE bs=1M; mkswap -U $U DEVICE`,
      });
    }
  }
  return [
    ...findings,
    ...(await present(guest, ['/swapfile', '/swap.img'], {
      rule: 'swap',
      weight: 'stale',
      what: "it may hold old memory of the master's, and takes room",
      fix: (path) => `swapoff ${path}; rm ${path}   (and make it anew at boot)`,
    })),
  ];
};

/** Whether a new swap space follows its header: the first 16 MiB of it are looked at. */
async function readsAsZero(
  bytes: { read(at: number, into: Uint8Array): Promise<void> },
  length: number,
): Promise<boolean> {
  const piece = new Uint8Array(1024 * 1024);
  for (let at = 4096; at < Math.min(length, 16 * 1024 * 1024); at += piece.length) {
    const part = piece.subarray(0, Math.min(piece.length, length - at));
    await bytes.read(at, part);
    if (part.some((byte) => byte !== 0)) return false;
  }
  return true;
}

const logs: Rule = async (guest) => {
  const folder = await guest.find('/var/log');
  if (folder?.node.kind !== 'directory') return [];
  let [files, bytes] = [0, 0];
  for await (const { node } of walkTree(folder.system, { path: '/var/log', node: folder.node })) {
    if (node.kind !== 'file' || node.size === 0) continue;
    files += 1;
    bytes += node.size;
    if (files >= mostFiles) break;
  }
  if (files === 0) return [];
  return [
    {
      rule: 'logs',
      weight: 'stale',
      path: '/var/log',
      what: `${files} log files of the master's own life (${bytes} bytes) would be in every clone`,
      fix: 'find /var/log -type f -delete',
      remedy: { do: 'files', paths: ['/var/log'] },
    },
  ];
};

const history: Rule = async (guest) => {
  const names = ['.bash_history', '.zsh_history', '.ash_history', '.python_history', '.lesshst', '.viminfo'];
  const paths = (await homes(guest)).flatMap((home) => names.map((name) => `${home}/${name}`));
  return present(guest, paths, {
    rule: 'history',
    weight: 'stale',
    what: 'what was typed on the master would be in every clone',
    fix: (path) => `rm ${path}`,
  });
};

const temporary: Rule = async (guest) => {
  const findings: Finding[] = [];
  for (const path of ['/tmp', '/var/tmp']) {
    const left = (await guest.list(path)).filter(({ name }) => !name.startsWith('.'));
    if (left.length === 0) continue;
    const what = `${left.length} temporary files would be in every clone`;
    const remedy = { do: 'clear', paths: [path] } as const;
    findings.push({ rule: 'temporary', weight: 'stale', path, what, fix: `rm -rf ${path}/*`, remedy });
  }
  return findings;
};

/** In the order in which they are told. */
export const rules: readonly Rule[] = [
  machineId,
  sshHostKeys,
  cloudInit,
  secrets,
  randomSeed,
  persistentNet,
  leases,
  swap,
  logs,
  history,
  temporary,
];

async function homes(guest: GuestFiles): Promise<readonly string[]> {
  const users = (await guest.list('/home')).filter(({ node }) => node.kind === 'directory');
  return ['/root', ...users.map(({ name }) => `/home/${name}`)];
}

/** A finding for each of these that is there and not empty. */
async function present(
  guest: GuestFiles,
  paths: readonly string[],
  { fix, ...finding }: Omit<Finding, 'path' | 'fix'> & { fix(path: string): string },
): Promise<readonly Finding[]> {
  const findings: Finding[] = [];
  for (const path of paths) {
    const file: GuestFile | undefined = await guest.find(path, { followLast: false });
    if (file?.node.kind !== 'file' || file.node.size === 0) continue;
    // A swap file that fstab names must be there at boot.
    const remedy = finding.rule === 'swap' ? undefined : ({ do: 'remove', paths: [path] } as const);
    findings.push({ ...finding, path, fix: fix(path), remedy });
  }
  return findings;
}
