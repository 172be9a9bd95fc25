import { existsSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { DOMParser } from '@xmldom/xmldom';
import { DiskError, isDiskError } from '../../errors.ts';
import { readJsonFile, writeJsonFile } from '../../platform/json-file.ts';
import { abandonedFolders } from '../../platform/scratch-folder.ts';
import { domainName, metadataNamespace } from '../domain/domain-xml.ts';
import { isDown, type Runner } from '../runner/runner.ts';
import { createRunner } from '../runner/runners.ts';
import type { Seat } from '../seats/seat.ts';

/*
 * A build that is killed (-9) leaves its machine with libvirt. A file in its scratch folder says with which, so that `gc` finds it; the next
 * build of that name finds it by the name. Only a domain that says that it was defined from a scratch folder, whose builder is gone, is
 * ever removed, and never one that runs.
 */

/** What machines of builds have in the place of a lab's name. */
export const buildLab = 'build';

type Machine = Pick<Seat, 'uuid' | 'name' | 'definition'>;

const recordOf = (folder: string) => join(folder, 'libvirt.json');

/** Writes down in the scratch folder that the machine is going to be defined. */
export function recordMachine(folder: string, uri: string, { uuid, name, definition }: Machine): void {
  writeJsonFile(recordOf(folder), { version: 1, uri, uuid, name, definition: basename(definition) });
}

interface Recorded {
  readonly uri: string;
  readonly machine: Machine;
}

function recordIn(folder: string): Recorded | undefined {
  const fix =
    "it says which machine an installer ran in. Where libvirt has none of that build any more ('virsh list --all'; 'virsh undefine' it), remove it";
  const { uri, uuid, name, definition } = readJsonFile(recordOf(folder), 64 * 1024, fix) ?? {};
  const texts = [uri, uuid, name, definition];
  if (!texts.every((one) => typeof one === 'string')) return undefined;
  const [at, id, called, file] = texts as string[];
  return { uri: at, machine: { uuid: id, name: called, definition: join(folder, basename(file)) } };
}

/** Why the scratch folder of a build that is gone has to stay for its machine's sake; undefined: it need not. */
export async function whyMachineStays(folder: string): Promise<string | undefined> {
  const recorded = recordIn(folder);
  if (!recorded) return undefined;
  const { uri, machine } = recorded;
  await using runner = createRunner('libvirt', { libvirt: { uri } });
  const silent = await runner.unavailable();
  if (silent !== undefined) return `its machine may still be there: ${silent}`;
  return (await isUp(runner, machine))
    ? `its installer still runs: ${destroy(uri, machine.name)}`
    : undefined;
}

/** Has libvirt forget the machine of a build that is gone. Throws `in-use` where it runs. */
export async function forgetMachine(folder: string): Promise<void> {
  const recorded = recordIn(folder);
  if (!recorded) return;
  await using runner = createRunner('libvirt', { libvirt: { uri: recorded.uri } });
  await runner.undefine(seatOf(recorded.machine));
}

/**
 * Makes way for the machine of a new build: one of a build that was killed is forgotten. Throws `in-use` where that still runs, or another
 * build of the name does, and `exists` for a domain of the name that is none of ours.
 */
export async function forgetFormerMachine(runner: Runner, uri: string, name: string): Promise<void> {
  const domain = domainName({ lab: buildLab, name });
  let text: string;
  try {
    text = await runner.domainXml(domain);
  } catch (error) {
    if (isDiskError(error, 'not-found')) return;
    throw error;
  }
  const machine = machineIn(text, name);
  if (!machine) {
    throw new DiskError('exists', `${uri} has a domain '${domain}' already, made by somebody else`, {
      field: 'libvirt',
      detail: { fix: 'give the master another name, or rename the domain' },
    });
  }
  const folder = dirname(machine.definition);
  if (existsSync(folder) && !abandonedFolders(dirname(folder)).includes(folder)) {
    throw new DiskError('in-use', `A build of '${name}' is under way: in '${folder}'`, {
      path: folder,
      detail: { fix: 'wait for its end, or give this one another name' },
    });
  }
  if (await isUp(runner, machine)) {
    throw new DiskError('in-use', `The installer of a build of '${name}' that was killed still runs`, {
      path: folder,
      detail: { fix: `what it has made is '${folder}/disk.qcow2'; to give it up: ${destroy(uri, name)}` },
    });
  }
  await runner.undefine(seatOf(machine));
}

/** The machine that a domain's XML is; undefined: no build made it. */
function machineIn(xml: string, name: string): Machine | undefined {
  const document = new DOMParser({ onError: () => undefined }).parseFromString(xml, 'text/xml');
  const mark = document.getElementsByTagNameNS(metadataNamespace, 'seat')[0];
  const from = mark?.getAttribute('from');
  const uuid = document.getElementsByTagName('uuid')[0]?.textContent;
  if (!from || !uuid || mark.getAttribute('lab') !== buildLab) return undefined;
  return basename(dirname(from)).startsWith('.build-') ? { uuid, name, definition: from } : undefined;
}

async function isUp(runner: Runner, machine: Machine): Promise<boolean> {
  return !isDown(await runner.state(seatOf(machine)));
}

function destroy(uri: string, name: string): string {
  return `virsh -c '${uri}' destroy ${domainName({ lab: buildLab, name })}`;
}

/** What a runner needs to be asked of a machine: whose it is, not what it is made of. */
function seatOf({ uuid, name, definition }: Machine): Seat {
  const folder = dirname(definition);
  return {
    ...{ lab: buildLab, name, uuid, definition, mac: '', memoryMiB: 1, cpus: 1 },
    disk: { path: join(folder, 'disk.qcow2'), format: 'qcow2', bus: 'virtio' },
    network: { kind: 'none' },
    serialLog: join(folder, `${name}.log`),
    graphics: 'none',
    firmware: 'bios',
  };
}
