import type { LabHost } from '../spec/hosts.ts';
import { FilesRunner } from './files-runner.ts';
import { HostsRunner } from './hosts-runner.ts';
import { LibvirtRunner, type LibvirtRunnerOptions } from './libvirt/libvirt-runner.ts';
import { QemuRunner, type QemuRunnerOptions } from './qemu-runner.ts';
import type { Runner } from './runner.ts';

/** Every runner, by the name that a lab file gives it, with a line of help. */
export const runnerNames = ['qemu', 'libvirt', 'files'] as const;
export type RunnerName = (typeof runnerNames)[number];

export interface RunnerOptions {
  readonly qemu?: QemuRunnerOptions;
  readonly libvirt?: LibvirtRunnerOptions;
  /** With 'libvirt': several of them. */
  readonly hosts?: readonly LabHost[];
}

/** Makes a runner. Nothing is started, and no accelerator tried, before the first `start`. */
export function createRunner(name: RunnerName, options: RunnerOptions = {}): Runner {
  switch (name) {
    case 'qemu':
      return new QemuRunner(options.qemu);
    case 'libvirt':
      return options.hosts ? new HostsRunner(options.hosts) : new LibvirtRunner(options.libvirt);
    case 'files':
      return new FilesRunner();
  }
}
