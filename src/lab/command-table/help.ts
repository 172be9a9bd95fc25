import { output } from './options.ts';
import type { CommandSpec } from './spec.ts';

/** What helps to use the rest. */
export const helpCommands: readonly CommandSpec[] = [
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
    load: () => import('../commands/doctor.ts'),
  },
  {
    name: 'schema',
    operands: '',
    summary: 'print the JSON Schema of lab files',
    description: 'Prints the JSON Schema of lab files, by which editors check and complete them.',
    options: [],
    examples: ['schema > lab.schema.json'],
    load: () => import('../commands/schema.ts'),
  },
  {
    name: 'demo',
    operands: '[folder]',
    summary: 'everything at work, in a minute',
    description:
      'Makes a master image with a tiny guest, forty seats on it, boots them all, resets one: by the commands that you would ' +
      'type. What it makes lies in .demo/ of the folder (this one), its lab file in examples/; where that is not its own, it refuses.',
    options: [],
    examples: ['demo', 'demo /tmp/try'],
    load: () => import('../commands/demo.ts'),
  },
];
