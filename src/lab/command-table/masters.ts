import { dryRun, output } from './options.ts';
import type { CommandSpec } from './spec.ts';

/** Masters: made, versioned, changed, kept. */
export const masterCommands: readonly CommandSpec[] = [
  {
    name: 'build',
    operands: '<name>',
    summary: 'make a master from nothing, an installer, or an image',
    description:
      'Makes the next version of the master NAME, looks into it as seal does, and seals it. --small: a Linux of 32 MiB, in seconds, of the ' +
      'kernel and busybox of this machine. --debian: by mmdebstrap; no mount, no virtual machine, no privileges. --iso: boots an installer ' +
      'on an empty disk, by QEMU or libvirt, and waits until it has switched its machine off: one that is turned off from outside (virsh destroy) counts as torn off. Where clones of it would clash, its disk is kept as NAME.unsealed.qcow2, and --fix seals a copy without what they would share. --from: a disk image of any format, packed or not; a cloud image; an appliance (OVA, OVF) of one disk.',
    options: [
      { flags: '--small', help: 'a small Linux that says who it is' },
      { flags: '--debian <suite>', help: 'bookworm, trixie …' },
      { flags: '--include <packages>', help: 'with --debian: more packages, with commas between' },
      { flags: '--mirror <url>', help: 'with --debian: where packages come from' },
      { flags: '--iso <file>', help: 'an installer' },
      {
        flags: '--answers <file>',
        help: 'with --iso: preseed.cfg (Debian), user-data (cloud-init, autoinstall) or ks.cfg (kickstart)',
      },
      {
        flags: '--libvirt <uri>',
        help: 'with --iso: its machine is a domain of this libvirt, such as qemu:///system',
      },
      { flags: '--memory <size>', help: 'with --iso: the memory of its machine (2G)' },
      { flags: '--display <kind>', help: 'with --iso: how to see it (vnc)', choices: ['vnc', 'none'] },
      { flags: '--limit <minutes>', help: 'with --iso: how long it may take (1440)' },
      { flags: '--disk <size>', help: 'the size of the disk (2G with --debian, 10G with --iso)' },
      { flags: '--from <image>', help: 'a disk image, or an appliance' },
      {
        flags: '--format <format>',
        help: 'with --from: of a disk image; found out from its first bytes when absent',
      },
      { flags: '--sha256 <digest>', help: 'with --from and --iso: what the file must be' },
      { flags: '--sha512 <digest>', help: 'the same, as Debian publishes it' },
      { flags: '--folder <folder>', help: 'where versions are kept (masters)' },
      { flags: '--fix', help: 'take what clones would share out of it, as seal --fix does' },
      { flags: '--anyway', help: 'seal it also where clones would clash' },
      output,
    ],
    examples: [
      'build tiny --small',
      'build debian-12 --debian bookworm --include cloud-init,openssh-server',
      'build win-11 --iso Win11.iso --disk 64G --memory 8G',
      'build debian-12 --iso debian-12-netinst.iso --answers preseed.cfg --fix --libvirt qemu:///system',
      'build alma-9 --iso AlmaLinux-9.iso --answers ks.cfg --disk 20G',
      'build debian-12 --from debian-12-generic-amd64.qcow2 --sha512 9f3c…',
    ],
    load: () => import('../commands/build.ts'),
  },
  {
    name: 'seal',
    operands: '<image>',
    summary: 'make a version of a master, after a look into it',
    description:
      'Looks into the file systems of IMAGE (ext2, ext3, ext4; nothing is mounted) for what would be the same on every clone: machine ID, SSH ' +
      'host keys, leases, logs … and says what to type in the guest. Where clones would clash it stops there, with exit code 1. ' +
      'With --fix it takes that out of the copy by debugfs, e2fsck being the judge, and IMAGE stays as it is. ' +
      'Else it adds IMAGE to a folder of masters as NAME@1, NAME@2 …: read-only, with the digest of its content.',
    options: [
      { flags: '--name <name>', help: "the master's name (that of the image)" },
      { flags: '--folder <folder>', help: 'where versions are kept (masters)' },
      { flags: '--format <format>', help: 'of the image; found out from its first bytes when absent' },
      { flags: '--check', help: 'only look' },
      {
        flags: '--fix',
        help: 'take what is found out of the copy that is sealed (ext2, ext3, ext4), but for keys of people and swap',
      },
      dryRun,
      { flags: '--anyway', help: 'also where clones would clash' },
      output,
    ],
    examples: [
      'seal debian-12.qcow2',
      'seal debian-12.qcow2 --check',
      'seal debian-12.qcow2 --fix --dry-run',
      'seal disk.vmdk --name win-11 --folder /srv/masters',
    ],
    load: () => import('../commands/seal.ts'),
  },
  {
    name: 'roll',
    operands: '[lab] [master]',
    summary: 'change over to another master, seat by seat',
    description:
      'Makes the lab file name another master (an image, or a version such as debian-12@4, or debian-12 for the newest), and ' +
      'does what up does. Seats that are there stay on the former one, and start, until their next reset. Writing the other ' +
      'master into the lab file and calling up is the same.',
    options: [{ flags: '--dry-run', help: 'only say what would be done' }, output],
    examples: ['roll classroom.yaml debian-12@4', 'roll classroom.yaml masters/other.qcow2 --dry-run'],
    load: () => import('../commands/roll.ts'),
  },
  {
    name: 'move',
    operands: '<master-or-pool> <to> [places...]',
    summary: 'move a master or a pool, with all that belongs to it',
    description:
      'Moves a master (or another image) to a folder or a new name. Its clones, the labs that use it and their lab files follow, ' +
      'one by one, and each can be read all the while; the old name goes last. The same command completes a move that was cut ' +
      'off. Clones are looked for in this folder and the places given, and where they were recorded. A folder with seats in it is ' +
      'moved as a whole, while none of them runs: its labs, their definitions and lab files follow.',
    options: [dryRun, output],
    examples: [
      'move masters/debian-12@3.qcow2 /srv/masters/',
      'move old.qcow2 new.qcow2 /srv/vms --dry-run',
      'move class /srv/pools/',
    ],
    load: () => import('../commands/move.ts'),
  },
  {
    name: 'adopt',
    operands: '<lab-or-places...>',
    summary: 'make clones that others made seats, or record them',
    description:
      "With a lab file: clones of the lab's master that others made, by qemu-img for example, become disks of its seats, with all that " +
      'is in them. A clone NAME.qcow2 becomes the seat NAME, SEAT=FILE says another; the seat must be in the lab file and have no disk ' +
      'yet. The clone moves into the pool, and says in its header whose it is; one on a block device stays there until the next reset, which makes a file and leaves the device as it is. Refuses a clone of another master, one that is open in a ' +
      'program or that something stands on, and one that is a seat elsewhere. Without: records images that stand on others beside what ' +
      'they stand on, so that Cowherd refuses to write to that, gc keeps it, and move lets them follow; they stay as they are.',
    options: [dryRun, output],
    examples: [
      'adopt classroom.yaml vms/student-01.qcow2 student-02=vms/old-clone.qcow2',
      'adopt /srv/vms',
      'adopt clone.qcow2 --dry-run',
    ],
    load: () => import('../commands/adopt.ts'),
  },
  {
    name: 'gc',
    operands: '[lab-or-folder] [places...]',
    summary: 'remove versions of masters that nobody needs',
    description:
      'Says which versions in the folder of masters nothing stands on and no lab names, and what killed runs of build and others have left; removes ' +
      'them with --yes. The newest version of each name stays. Clones are looked for in this folder and the places given, in ' +
      "the pools of labs, and where they were recorded: name the places of clones that Cowherd does not know, or 'adopt' them. " +
      'What stood on a version and is not where it was keeps it: it may have been moved.',
    options: [
      { flags: '--yes', help: 'remove it, not only say so' },
      { flags: '--keep <n>', help: 'the newest versions of each name that stay (1)' },
      {
        flags: '--forget-gone',
        help: 'clones that are not where they were are gone for good, and were not moved',
      },
      dryRun,
      output,
    ],
    examples: ['gc classroom.yaml', 'gc masters /srv/vms --yes'],
    load: () => import('../commands/gc.ts'),
  },
  {
    name: 'guard',
    operands: '[labs...]',
    summary: 'let QEMU itself refuse to write to masters',
    description:
      'Holds the locks of a reader on the masters of labs, and on images in folders that something stands on, until it is ended: ' +
      'QEMU and qemu-img refuse to write to them then, while all clones are off. Follows labs that come and go.',
    options: [
      { flags: '--pool <folders>', help: 'folders of masters, with commas between' },
      { flags: '--interval <seconds>', help: 'how often it looks for changes (5)' },
      { flags: '--install', help: 'print a systemd unit for --pool, and do nothing else' },
    ],
    examples: [
      'guard classroom.yaml',
      'guard --pool /srv/masters',
      'guard --install > cowherd-guard@.service',
    ],
    load: () => import('../commands/guard.ts'),
  },
];
