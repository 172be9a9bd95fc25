import { force, output } from './options.ts';
import type { CommandSpec } from './spec.ts';

/** Images and appliances, in a lab or not. */
export const imageCommands: readonly CommandSpec[] = [
  {
    name: 'tree',
    operands: '[lab-or-image]',
    summary: 'show an image and what stands on it',
    description:
      "Shows the lab's master (or an image) with its backing chain and everything that stands on it, with sizes.",
    options: [{ flags: '--all', help: 'every clone, not only the first' }, output],
    examples: ['tree classroom.yaml', 'tree masters/debian-12.qcow2 --all'],
    load: () => import('../commands/tree.ts'),
  },
  {
    name: 'who-uses',
    operands: '<file> [folders...]',
    summary: 'find the images that stand on a file',
    description:
      'Finds the images that have FILE as their backing file, directly or through others: in the folders given, in that of ' +
      'FILE, and where labs have recorded clones of it. Only headers are read.',
    options: [output],
    examples: ['who-uses masters/debian-12.qcow2', 'who-uses masters/debian-12.qcow2 /srv/vms'],
    load: () => import('../commands/who-uses.ts'),
  },
  {
    name: 'inspect',
    operands: '<file>',
    summary: 'say what an image would open',
    description:
      'Says which other files, protocols and devices opening the image FILE would touch, and whether that is allowed to an ' +
      'image from a stranger. Of an appliance (OVF, OVA) it says which files import would read. Reads the header or ' +
      'descriptor and nothing else. Exit code 3 where cow-img --untrusted, or import, would refuse it.',
    options: [output],
    examples: ['inspect downloaded.qcow2', 'inspect downloaded.qcow2 --output json'],
    load: () => import('../commands/inspect.ts'),
  },
  {
    name: 'import',
    operands: '<file>',
    summary: 'take over a machine or an image of another product',
    description:
      'Takes an appliance (OVA, OVF, or a folder with one) and makes of it qcow2 images and a libvirt definition with its ' +
      'memory, processors, disks and network cards. What the manifest says is checked before anything is written. Takes an ' +
      'image too, of any format, which may be packed by gzip, xz, zstd or bzip2. Files appear when all of them are whole. ' +
      '`-` is the standard input: an archive is read once, and streamOptimized disks go straight into their images.',
    options: [
      {
        flags: '-o, --output-file <path>',
        help: 'the folder for an appliance (this one), or the image, which ends in .qcow2',
      },
      { flags: '--name <name>', help: "the machine's name, instead of the appliance's" },
      { flags: '--format <format>', help: 'of an image; found out from its first bytes when absent' },
      { flags: '--force', help: 'replace files that are there' },
      { flags: '--dry-run', help: 'only say what would be made' },
      output,
    ],
    examples: [
      'import box.ova -o /srv/vms',
      'import box.ova --dry-run',
      'import - -o /srv/vms < box.ova.gz',
      'import debian-12.raw.xz -o debian-12.qcow2',
    ],
    load: () => import('../commands/import.ts'),
  },
  {
    name: 'export',
    operands: '<image-or-seat> <ova>',
    summary: 'pack an image or a seat for another product',
    description:
      'Packs an image, with all that it stands on, as an OVA that VMware and VirtualBox can import: OVF descriptor, SHA-256 ' +
      'manifest, and a streamOptimized VMDK. With --lab it packs a seat of that lab with all its disks; shut it down first.',
    options: [
      { flags: '--lab <file>', help: 'the first operand is a seat of this lab' },
      { flags: '--name <name>', help: "the machine's name, instead of the image's" },
      { flags: '--memory <mebibytes>', help: 'memory (2048, or as the seat has)' },
      { flags: '--cpus <n>', help: 'processors (2, or as the seat has)' },
      { flags: '--firmware <firmware>', help: 'what the machine boots by', choices: ['bios', 'uefi'] },
      { flags: '--bus <bus>', help: 'what disks are plugged into (sata)', choices: ['ide', 'sata', 'scsi'] },
      force,
      { flags: '--dry-run', help: 'only say what would be made' },
      output,
    ],
    examples: [
      'export debian-12.qcow2 debian-12.ova --memory 1024 --cpus 1',
      'export student-03 student-03.ova --lab classroom.yaml',
    ],
    load: () => import('../commands/export.ts'),
  },
];
