import { dryRun, output, seatsHelp } from './options.ts';
import type { CommandSpec } from './spec.ts';

const giveUp = {
  flags: '--give-up <what>',
  help:
    'HOST: it is not in the lab file any more, or is another machine now, and its seats are made anew; . (a dot): the seats from when ' +
    'the lab had no such hosts; SEAT@HOST: another host has the seat too, ' +
    'and it goes from this one, with its disk where the host has a pool of its own',
};

const forgetGone = {
  flags: '--forget-gone',
  help: 'seats that the master has on record, of which nothing is in the pool any more, are gone for good (not with pools on hosts)',
};

const giveUpGone = {
  ...forgetGone,
  help: `${forgetGone.help}; so is the pool that this one was copied from, whose domains are this one's then`,
};

/** Making a lab, running it, and removing it. */
export const labCommands: readonly CommandSpec[] = [
  {
    name: 'plan',
    operands: '[lab]',
    summary: 'say what up would do',
    description:
      'Compares the lab file with what is there, and says what up would make or change. Changes nothing. Exit code 1 where up would refuse it.',
    options: [
      { flags: '--prune', help: 'with seats that are not in the lab file any more' },
      giveUp,
      giveUpGone,
      output,
    ],
    examples: ['plan classroom.yaml', 'plan classroom.yaml --output json'],
    load: () => import('../commands/plan.ts'),
  },
  {
    name: 'up',
    makesDisks: true,
    operands: '[lab]',
    summary: 'make the seats: disks and definitions',
    description:
      'Makes what the lab file asks for and is not there: for each seat a disk that holds only what differs from the ' +
      'master, and a libvirt definition. Run again, it changes nothing; stopped half-way, the next run completes it. ' +
      'The master is made read-only meanwhile.',
    options: [
      { flags: '--start', help: 'boot the seats then' },
      {
        flags: '--overwrite <seats>',
        help: 'whatever is on the devices of these seats is given up (disk.device)',
      },
      { flags: '--prune', help: 'remove seats that are not in the lab file any more, with their disks' },
      giveUp,
      giveUpGone,
      dryRun,
      { flags: '--parallel <n>', help: 'with --start: seats that are booted at the same time' },
      { flags: '--watch', help: 'with --start: show what guests print, until they are off' },
      output,
    ],
    examples: ['up classroom.yaml', 'up classroom.yaml --start', 'up classroom.yaml --prune --dry-run'],
    load: () => import('../commands/up.ts'),
  },
  {
    name: 'status',
    operands: '[lab]',
    summary: 'show the master and every seat',
    description:
      'Shows what each seat is doing and what its disk takes, and whether the master is still what the seats were made ' +
      'from. Exit code 1 when it is not, or when nothing is left in the pool of seats that were made.',
    options: [
      { flags: '--verify', help: "compare the master's whole content, not only its dates and header" },
      { flags: '--brief', help: 'without the table of seats' },
      { flags: '--watch', help: "then tell of each change of a seat's state, until Ctrl-C" },
      output,
    ],
    examples: ['status classroom.yaml', 'status classroom.yaml --verify', 'status classroom.yaml --watch'],
    load: () => import('../commands/status.ts'),
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
    load: () => import('../commands/start.ts'),
  },
  {
    name: 'serve',
    operands: '[lab] [seats...]',
    summary: "export seats' disks by NBD, for guests elsewhere",
    description:
      "Serves seats' disks, all of them when none is named, as NBD exports by the seats' names, and the master read-only as " +
      "'master', until it is ended; 'serve' in the lab file says where, and with what TLS. " +
      `${seatsHelp} Served disks are in use: their guests do not start on this host, and reset refuses them.`,
    options: [
      {
        flags: '--definitions <folder>',
        help: 'write libvirt definitions for another host, whose disks are these exports, and do nothing else',
      },
    ],
    examples: ['serve classroom.yaml', 'serve classroom.yaml --definitions for-host-2'],
    load: () => import('../commands/serve.ts'),
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
    load: () => import('../commands/stop.ts'),
  },
  {
    name: 'reset',
    makesDisks: true,
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
    load: () => import('../commands/reset.ts'),
  },
  {
    name: 'down',
    operands: '[lab]',
    summary: 'remove everything that up made',
    description:
      'Removes the disks and definitions of all seats, and makes the master as writable as it was. Refuses while a ' +
      'seat runs, or while an image outside the lab stands on one of its disks, or a domain of somebody else uses one.',
    options: [
      { flags: '--stop', help: 'stop seats that are running first' },
      {
        flags: '--give-up <hosts>',
        help: 'forget seats of these hosts, which are not in the lab file any more, or are other machines now',
      },
      giveUpGone,
      { flags: '--dry-run', help: 'only say what would be removed' },
      output,
    ],
    examples: ['down classroom.yaml --dry-run', 'down classroom.yaml --stop'],
    load: () => import('../commands/down.ts'),
  },
];
