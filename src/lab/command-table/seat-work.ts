import { dryRun, force, output, seatsHelp, stop } from './options.ts';
import type { CommandSpec } from './spec.ts';

/** What becomes of the work in a seat. */
export const seatWorkCommands: readonly CommandSpec[] = [
  {
    name: 'diff',
    operands: '[lab-or-image] [seat-or-image]',
    summary: 'show what a seat changed',
    description:
      'Shows what a seat (or an image) changed against what it stands on, or against another image: by file on ext2, ext3, ext4 and FAT, ' +
      'else by partition and bytes. "+" came, "-" went, "~" changed. Stop the seat first. Nothing is mounted, nothing changed.',
    options: [output],
    examples: [
      'diff classroom.yaml student-03',
      'diff seat.qcow2 --output json',
      'diff new-master.qcow2 old-master.qcow2',
    ],
    load: () => import('../commands/diff.ts'),
  },
  {
    name: 'save',
    operands: '[lab] [seat] [file]',
    summary: "keep a seat's work in a file",
    description:
      'Copies the overlay of a seat that is off, alone, to a file. It says in its header whose it is and what it stands on, and ' +
      'is recorded beside the master.',
    options: [force, stop, dryRun, output],
    examples: ['save classroom.yaml student-03 work/student-03.qcow2'],
    load: () => import('../commands/save.ts'),
  },
  {
    name: 'restore',
    operands: '[lab] [seat] [file]',
    summary: "put saved work in the place of a seat's disk",
    description:
      "Puts what 'save' made in the place of the seat's disk, which is thrown away. Refuses work of another seat, and work that " +
      'stands on another master.',
    options: [stop, dryRun, output],
    examples: ['restore classroom.yaml student-03 work/student-03.qcow2 --dry-run'],
    load: () => import('../commands/restore.ts'),
  },
  {
    name: 'passphrase',
    operands: '[lab] [seat]',
    summary: "tell the passphrase of a seat's encrypted disks",
    description:
      "Writes the passphrase of the seat's disks to standard output, for a program that opens them, or for whoever owns the seat. It opens " +
      "no other seat. With --definition: libvirt's definition of the secret that the seat's domain names, without the passphrase.",
    options: [{ flags: '--definition', help: "libvirt's XML of the secret" }],
    examples: [
      'passphrase classroom.yaml student-03 > student-03.key',
      'passphrase classroom.yaml student-03 --definition > secret.xml',
    ],
    load: () => import('../commands/passphrase.ts'),
  },
  {
    name: 'flatten',
    operands: '[lab] [seat]',
    summary: "make a seat's disk independent of the master",
    description:
      'Copies all that the seat reads into its own disk, which stands on nothing then, until the next reset. Bitmaps are kept; where the ' +
      'disk has internal snapshots, it refuses.',
    options: [
      { flags: '--drop-snapshots', help: 'give up the internal snapshots of the disk' },
      stop,
      dryRun,
      output,
    ],
    examples: ['flatten classroom.yaml student-03'],
    load: () => import('../commands/flatten.ts'),
  },
  {
    name: 'promote',
    operands: '[lab] [seat]',
    summary: "make a seat's disk a new version of the master",
    description:
      'Makes the disk of a seat that is off a new version beside the master: debian-12.qcow2 gets debian-12@1.qcow2, that one ' +
      'debian-12@2.qcow2. The seat and its master stay as they are. Looks into it first as seal does, and stops where clones ' +
      'would clash, with exit code 1.',
    options: [
      { flags: '--as <name>', help: "another name than the master's" },
      {
        flags: '--method <method>',
        help: 'flatten: copy all that the guest reads. commit: copy the master, and write what differs into it',
        choices: ['flatten', 'commit'],
      },
      { flags: '--anyway', help: 'also where clones would clash' },
      { flags: '--plain', help: 'also a disk that is encrypted: the master is not' },
      stop,
      dryRun,
      output,
    ],
    examples: [
      'promote classroom.yaml student-03',
      'promote classroom.yaml student-03 --as debian-12-docker',
    ],
    load: () => import('../commands/promote.ts'),
  },
  {
    name: 'space',
    operands: '[lab-or-pool]',
    summary: 'show what seats take, share, and may come to take',
    description:
      'Shows for each seat what its files take (ls -l; du, which is its own), what it reads from the master instead of holding it, and ' +
      'what it takes at worst, when its guest has written everywhere; for all of them together, against what is free. A folder is a pool ' +
      'with all its labs. Seats may run meanwhile.',
    options: [output],
    examples: ['space classroom.yaml', 'space /srv/vms/class --output json'],
    load: () => import('../commands/space.ts'),
  },
  {
    name: 'compact',
    operands: '[lab-or-image] [seats...]',
    summary: 'give back to the host what guests have deleted',
    description:
      'Gives back what the disks of seats that are off store for nothing: blocks that are free in ext2, ext3, ext4 and FAT, and zeroes. All ' +
      `else that guests read stays as it is. Takes images too, where nothing stands on them. ${seatsHelp}`,
    options: [stop, dryRun, output],
    examples: ['compact classroom.yaml', 'compact classroom.yaml student-03 --dry-run', 'compact disk.qcow2'],
    load: () => import('../commands/compact.ts'),
  },
];
