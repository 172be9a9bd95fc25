import type { LabCommand } from './commands/command.ts';

export interface OptionSpec {
  /** As commander takes it: `--parallel <n>`. */
  readonly flags: string;
  readonly help: string;
  readonly choices?: readonly string[];
}

/** A command of `cowherd`. Its code is loaded when it is called, so that start-up stays short. */
export interface CommandSpec {
  readonly name: string;
  /** As commander takes them: `[lab] [seats...]`. */
  readonly operands: string;
  /** One line in the list of commands. */
  readonly summary: string;
  readonly description: string;
  readonly options: readonly OptionSpec[];
  /** Without the program's name. */
  readonly examples: readonly string[];
  load(): Promise<{ readonly run: LabCommand }>;
}

const output: OptionSpec = {
  flags: '--output <format>',
  help: 'for people or for programs',
  choices: ['human', 'json'],
};
const stop: OptionSpec = { flags: '--stop', help: 'shut it down first, where it runs' };
const dryRun: OptionSpec = { flags: '--dry-run', help: 'only say what would be done' };
const seatsHelp = 'Seats: student-03,student-10..17, wildcards (student-1*), or all.';

/** In the order of the help. */
export const commands: readonly CommandSpec[] = [
  {
    name: 'plan',
    operands: '[lab]',
    summary: 'say what up would do',
    description:
      'Compares the lab file with what is there, and says what up would make or change. Changes nothing.',
    options: [{ flags: '--prune', help: 'with seats that are not in the lab file any more' }, output],
    examples: ['plan classroom.yaml', 'plan classroom.yaml --output json'],
    load: () => import('./commands/plan.ts'),
  },
  {
    name: 'up',
    operands: '[lab]',
    summary: 'make the seats: disks and definitions',
    description:
      'Makes what the lab file asks for and is not there: for each seat a disk that holds only what differs from the ' +
      'master, and a libvirt definition. Run again, it changes nothing; stopped half-way, the next run completes it. ' +
      'The master is made read-only meanwhile.',
    options: [
      { flags: '--start', help: 'boot the seats then' },
      { flags: '--prune', help: 'remove seats that are not in the lab file any more, with their disks' },
      { flags: '--dry-run', help: 'only say what would be done' },
      { flags: '--parallel <n>', help: 'with --start: seats that are booted at the same time' },
      { flags: '--watch', help: 'with --start: show what guests print, until they are off' },
      output,
    ],
    examples: ['up classroom.yaml', 'up classroom.yaml --start', 'up classroom.yaml --prune --dry-run'],
    load: () => import('./commands/up.ts'),
  },
  {
    name: 'status',
    operands: '[lab]',
    summary: 'show the master and every seat',
    description:
      'Shows what each seat is doing and what its disk takes, and whether the master is still what the seats were made ' +
      'from. Exit code 1 when it is not.',
    options: [
      { flags: '--verify', help: "compare the master's whole content, not only its dates and header" },
      { flags: '--brief', help: 'without the table of seats' },
      output,
    ],
    examples: ['status classroom.yaml', 'status classroom.yaml --verify'],
    load: () => import('./commands/status.ts'),
  },
  {
    name: 'start',
    operands: '[lab] [seats...]',
    summary: 'boot seats',
    description: `Boots seats, all of them when none is named. ${seatsHelp} Refuses when the master changed since they were made.`,
    options: [
      { flags: '--parallel <n>', help: 'seats that are booted at the same time' },
      {
        flags: '--watch',
        help: 'show what guests print on the serial port, until they are off; Ctrl-C stops them',
      },
      output,
    ],
    examples: [
      'start classroom.yaml',
      'start classroom.yaml student-03,student-10..17',
      'start classroom.yaml --watch',
    ],
    load: () => import('./commands/start.ts'),
  },
  {
    name: 'stop',
    operands: '[lab] [seats...]',
    summary: 'shut seats down',
    description: `Asks guests to shut down, and turns them off when they do not. All of them when none is named. ${seatsHelp}`,
    options: [
      { flags: '--now', help: 'turn them off without asking' },
      { flags: '--wait <seconds>', help: 'how long a guest has to shut down (10)' },
      output,
    ],
    examples: ['stop classroom.yaml', 'stop classroom.yaml student-03 --now'],
    load: () => import('./commands/stop.ts'),
  },
  {
    name: 'reset',
    operands: '[lab] [seats...]',
    summary: 'make seats as fresh as the master',
    description: `Throws the disks of seats away and makes new ones. Only disks that the lab made, and never one that something depends on. ${seatsHelp}`,
    options: [
      { flags: '--stop', help: 'stop seats that are running first' },
      { flags: '--start', help: 'boot them then' },
      { flags: '--accept-master', help: 'the master was changed on purpose: use what it holds now' },
      { flags: '--dry-run', help: 'only say what would be thrown away' },
      output,
    ],
    examples: ['reset classroom.yaml student-03', 'reset classroom.yaml all --stop --start'],
    load: () => import('./commands/reset.ts'),
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
    load: () => import('./commands/roll.ts'),
  },
  {
    name: 'promote',
    operands: '[lab] [seat]',
    summary: "make a seat's disk a new version of the master",
    description:
      'Makes the disk of a seat that is off a new version beside the master: debian-12.qcow2 gets debian-12@1.qcow2, that one ' +
      'debian-12@2.qcow2. The seat and its master stay as they are.',
    options: [
      { flags: '--as <name>', help: "another name than the master's" },
      {
        flags: '--method <method>',
        help: 'flatten: copy all that the guest reads. commit: copy the master, and write what differs into it',
        choices: ['flatten', 'commit'],
      },
      stop,
      dryRun,
      output,
    ],
    examples: [
      'promote classroom.yaml student-03',
      'promote classroom.yaml student-03 --as debian-12-docker',
    ],
    load: () => import('./commands/promote.ts'),
  },
  {
    name: 'save',
    operands: '[lab] [seat] [file]',
    summary: "keep a seat's work in a file",
    description:
      'Copies the overlay of a seat that is off, alone, to a file. It says in its header whose it is and what it stands on, and ' +
      'is recorded beside the master.',
    options: [{ flags: '--force', help: 'replace a file that is there' }, stop, dryRun, output],
    examples: ['save classroom.yaml student-03 work/student-03.qcow2'],
    load: () => import('./commands/save.ts'),
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
    load: () => import('./commands/restore.ts'),
  },
  {
    name: 'flatten',
    operands: '[lab] [seat]',
    summary: "make a seat's disk independent of the master",
    description:
      'Copies all that the seat reads into its own disk, which stands on nothing then, until the next reset.',
    options: [stop, dryRun, output],
    examples: ['flatten classroom.yaml student-03'],
    load: () => import('./commands/flatten.ts'),
  },
  {
    name: 'down',
    operands: '[lab]',
    summary: 'remove everything that up made',
    description:
      'Removes the disks and definitions of all seats, and makes the master as writable as it was. Refuses while a ' +
      'seat runs, or while an image outside the lab stands on one of its disks.',
    options: [
      { flags: '--stop', help: 'stop seats that are running first' },
      { flags: '--dry-run', help: 'only say what would be removed' },
      output,
    ],
    examples: ['down classroom.yaml --dry-run', 'down classroom.yaml --stop'],
    load: () => import('./commands/down.ts'),
  },
  {
    name: 'move',
    operands: '<master> <to> [places...]',
    summary: 'move a master, with all that stands on it',
    description:
      'Moves a master (or another image) to a folder or a new name. Its clones, the labs that use it and their lab files follow, ' +
      'one by one, and each can be read all the while; the old name goes last. The same command completes a move that was cut ' +
      'off. Clones are looked for in this folder and the places given, and where they were recorded.',
    options: [dryRun, output],
    examples: ['move masters/debian-12@3.qcow2 /srv/masters/', 'move old.qcow2 new.qcow2 /srv/vms --dry-run'],
    load: () => import('./commands/move.ts'),
  },
  {
    name: 'adopt',
    operands: '<places...>',
    summary: 'record clones that others made',
    description:
      'Records images that stand on others, such as clones by qemu-img, beside what they stand on, so that Cowherd refuses to ' +
      'write to that, gc keeps it, and move lets them follow. The images themselves stay as they are.',
    options: [dryRun, output],
    examples: ['adopt /srv/vms', 'adopt clone.qcow2 --dry-run'],
    load: () => import('./commands/adopt.ts'),
  },
  {
    name: 'gc',
    operands: '[lab-or-folder] [places...]',
    summary: 'remove versions of masters that nobody needs',
    description:
      'Says which versions in the folder of masters nothing stands on and no lab names, and what killed runs have left; removes ' +
      'them with --yes. The newest version of each name stays. Clones are looked for in this folder and the places given, in ' +
      "the pools of labs, and where they were recorded: name the places of clones that Cowherd does not know, or 'adopt' them.",
    options: [
      { flags: '--yes', help: 'remove it, not only say so' },
      { flags: '--keep <n>', help: 'the newest versions of each name that stay (1)' },
      dryRun,
      output,
    ],
    examples: ['gc classroom.yaml', 'gc masters /srv/vms --yes'],
    load: () => import('./commands/gc.ts'),
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
    load: () => import('./commands/guard.ts'),
  },
  {
    name: 'tree',
    operands: '[lab-or-image]',
    summary: 'show an image and what stands on it',
    description:
      "Shows the lab's master (or an image) with its backing chain and everything that stands on it, with sizes.",
    options: [{ flags: '--all', help: 'every clone, not only the first' }, output],
    examples: ['tree classroom.yaml', 'tree masters/debian-12.qcow2 --all'],
    load: () => import('./commands/tree.ts'),
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
    load: () => import('./commands/who-uses.ts'),
  },
  {
    name: 'inspect',
    operands: '<file>',
    summary: 'say what an image would open',
    description:
      'Says which other files, protocols and devices opening the image FILE would touch, and whether that is allowed to an ' +
      'image from a stranger. Reads its header and nothing else. Exit code 3 where cow-img --untrusted would refuse it.',
    options: [output],
    examples: ['inspect downloaded.qcow2', 'inspect downloaded.qcow2 --output json'],
    load: () => import('./commands/inspect.ts'),
  },
  {
    name: 'import',
    operands: '<file>',
    summary: 'take over a machine or an image of another product',
    description:
      'Takes an appliance (OVA, OVF, or a folder with one) and makes of it qcow2 images and a libvirt definition with its ' +
      'memory, processors, disks and network cards. What the manifest says is checked before anything is written. Takes an ' +
      'image too, of any format, which may be packed by gzip, xz, zstd or bzip2. Files appear when all of them are whole.',
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
      'import debian-12.raw.xz -o debian-12.qcow2',
    ],
    load: () => import('./commands/import.ts'),
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
      { flags: '--force', help: 'replace a file that is there' },
      { flags: '--dry-run', help: 'only say what would be made' },
      output,
    ],
    examples: [
      'export debian-12.qcow2 debian-12.ova --memory 1024 --cpus 1',
      'export student-03 student-03.ova --lab classroom.yaml',
    ],
    load: () => import('./commands/export.ts'),
  },
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
    load: () => import('./commands/diff.ts'),
  },
  {
    name: 'build',
    operands: '<name>',
    summary: 'make a master from nothing, an installer, or an image',
    description:
      'Makes the next version of the master NAME, looks into it as seal does, and seals it. --small: a Linux of 32 MiB, in seconds, of the ' +
      'kernel and busybox of this machine. --debian: by mmdebstrap; no mount, no virtual machine, no privileges. --iso: boots an installer ' +
      'on an empty disk, by QEMU, and waits until it is switched off. --from: a disk image of any format, packed or not; a cloud image.',
    options: [
      { flags: '--small', help: 'a small Linux that says who it is' },
      { flags: '--debian <suite>', help: 'bookworm, trixie …' },
      { flags: '--include <packages>', help: 'with --debian: more packages, with commas between' },
      { flags: '--mirror <url>', help: 'with --debian: where packages come from' },
      { flags: '--iso <file>', help: 'an installer' },
      {
        flags: '--answers <file>',
        help: 'with --iso: user-data (cloud-init, autoinstall) or ks.cfg (kickstart)',
      },
      { flags: '--memory <size>', help: 'with --iso: the memory of its machine (2G)' },
      { flags: '--display <kind>', help: 'with --iso: how to see it (vnc)', choices: ['vnc', 'none'] },
      { flags: '--disk <size>', help: 'the size of the disk (2G with --debian, 10G with --iso)' },
      { flags: '--from <image>', help: 'a disk image' },
      { flags: '--sha256 <digest>', help: 'with --from and --iso: what the file must be' },
      { flags: '--folder <folder>', help: 'where versions are kept (masters)' },
      { flags: '--anyway', help: 'seal it also where clones would clash' },
      output,
    ],
    examples: [
      'build tiny --small',
      'build debian-12 --debian bookworm --include cloud-init,openssh-server',
      'build win-11 --iso Win11.iso --disk 64G --memory 8G',
      'build alma-9 --iso AlmaLinux-9.iso --answers ks.cfg --disk 20G',
      'build debian-12 --from debian-12-generic-amd64.qcow2 --sha256 9f3c…',
    ],
    load: () => import('./commands/build.ts'),
  },
  {
    name: 'seal',
    operands: '<image>',
    summary: 'make a version of a master, after a look into it',
    description:
      'Looks into the file systems of IMAGE (ext2, ext3, ext4; nothing is mounted) for what would be the same on every clone: machine ID, SSH ' +
      'host keys, leases, logs … and says what to type in the guest. Where clones would clash it stops there, with exit code 1. ' +
      'Else it adds IMAGE to a folder of masters as NAME@1, NAME@2 …: read-only, with the digest of its content.',
    options: [
      { flags: '--name <name>', help: "the master's name (that of the image)" },
      { flags: '--folder <folder>', help: 'where versions are kept (masters)' },
      { flags: '--check', help: 'only look' },
      { flags: '--anyway', help: 'also where clones would clash' },
      output,
    ],
    examples: [
      'seal debian-12.qcow2',
      'seal debian-12.qcow2 --check',
      'seal disk.vmdk --name win-11 --folder /srv/masters',
    ],
    load: () => import('./commands/seal.ts'),
  },
  {
    name: 'doctor',
    operands: '[lab-or-image-or-domain]',
    summary: 'say why QEMU cannot open an image',
    description:
      'Walks every folder on the way to the files of a lab, an image, or a libvirt domain, and to all that they stand on, as ' +
      'the user that QEMU runs as. Says in plain words what is in its way, and the command that puts it right. Changes ' +
      'nothing. Exit code 1 when something is in the way.',
    options: [
      { flags: '--connect <uri>', help: "libvirt's connection URI" },
      { flags: '--user <name>', help: 'the user that QEMU runs as' },
      output,
    ],
    examples: [
      'doctor classroom.yaml',
      'doctor /srv/images/seat.qcow2',
      'doctor my-domain --connect qemu:///system',
    ],
    load: () => import('./commands/doctor.ts'),
  },
  {
    name: 'schema',
    operands: '',
    summary: 'print the JSON Schema of lab files',
    description: 'Prints the JSON Schema of lab files, by which editors check and complete them.',
    options: [],
    examples: ['schema > lab.schema.json'],
    load: () => import('./commands/schema.ts'),
  },
  {
    name: 'demo',
    operands: '[folder]',
    summary: 'everything at work, in a minute',
    description:
      'Makes a master image with a tiny guest, forty seats on it, boots them all, resets one: by the commands that you would ' +
      'type. What it makes lies in .demo/ of the folder (this one).',
    options: [],
    examples: ['demo', 'demo /tmp/try'],
    load: () => import('./commands/demo.ts'),
  },
];
