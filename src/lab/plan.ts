import { DiskError } from '../errors.ts';
import { isNumberedDevice } from '../platform/device-names.ts';
import type { DeviceProblem } from './disks/device-disk.ts';
import { backingPathOf, fileIdentity, type ImageHead } from './disks/overlay.ts';
import { pathFrom } from './masters/master.ts';
import type { LabState } from './state.ts';

/** One thing that `up` would do. Paths are absolute. */
export type Step =
  | { readonly do: 'guard'; readonly path: string; readonly what: string }
  /** `device`: the block device that it is made on; the path is a link to it then. */
  | {
      readonly do: 'create';
      readonly seat: string;
      readonly path: string;
      readonly lost: boolean;
      readonly device?: string;
    }
  | {
      readonly do: 'define';
      readonly seat: string;
      readonly path: string;
      readonly change: 'new' | 'rewrite';
      readonly text: string;
    }
  | {
      readonly do: 'relink';
      readonly seat: string;
      readonly path: string;
      readonly from: string;
      readonly to: string;
      readonly format: string;
    }
  | {
      readonly do: 'grow';
      readonly seat: string;
      readonly path: string;
      readonly from: number;
      readonly to: number;
    }
  /** Room for all that the disk may come to hold is set aside. */
  | { readonly do: 'reserve'; readonly seat: string; readonly path: string; readonly bytes: number }
  | { readonly do: 'seed'; readonly seat: string; readonly path: string; readonly change: 'new' | 'rewrite' }
  /** An extra disk, empty. */
  | {
      readonly do: 'add';
      readonly seat: string;
      readonly path: string;
      readonly disk: string;
      readonly size: number;
    }
  /** The runner learns its definition. */
  | { readonly do: 'register'; readonly seat: string }
  /** A host that has the seat's domain too forgets it. */
  | { readonly do: 'withdraw'; readonly seat: string; readonly host: string }
  | { readonly do: 'remove'; readonly seat: string; readonly paths: readonly string[] }
  | { readonly do: 'remember'; readonly path: string };

/** Something that `up` does not do by itself, and what the user can. */
export interface Problem {
  readonly seat?: string;
  readonly path: string;
  readonly what: string;
  readonly fix: string;
}

/** The refusal of `up`: the first of a plan's problems, and how many more there are. */
export function problemError(problems: readonly Problem[]): DiskError {
  const [{ seat, what, path, fix }] = problems;
  const more = problems.length > 1 ? ` (and ${problems.length - 1} more: see 'cowherd plan')` : '';
  const who = seat === undefined ? '' : `${seat}: `;
  return new DiskError('exists', `${who}${what}: '${path}'${more}`, { path, detail: { fix } });
}

/** What is wanted, what is there, and the way from one to the other. */
export interface Plan {
  readonly steps: readonly Step[];
  /** These stop `up` before it changes anything. */
  readonly problems: readonly Problem[];
  /** Seats whose disks stand on another content of the master: they do not start until they are reset. */
  readonly stale: readonly string[];
  /** Seats that stand on a master that the lab has rolled away from: they start, and change over when they are reset. */
  readonly former: readonly string[];
  /** Seats that were made and are not in the lab file any more: kept, unless `up --prune`. */
  readonly unlisted: readonly string[];
  /** For people: what is left as it is although the lab file says otherwise. */
  readonly notes: readonly string[];
}

/** A seat's files as they are. */
export interface SeatFiles {
  readonly name: string;
  /** `leadsTo`: where the path is a link to, though nothing is there. `otherName`: what is in its place, where the file system takes two names for one. */
  readonly disk: {
    readonly path: string;
    readonly head?: ImageHead;
    readonly leadsTo?: string;
    readonly otherName?: string;
  };
  readonly definition: { readonly path: string; readonly owner?: SeatOwner };
}

/** Who wrote a definition, by its own metadata: 'foreign' is somebody else. */
export interface SeatOwner {
  readonly kind: 'ours' | 'foreign';
  readonly text: string;
}

/** A master that disks may stand on. */
export interface PlanMaster {
  readonly path: string;
  readonly format: string;
  /** Guest bytes. */
  readonly size: number;
  /** Undefined while it was not computed: nothing can be called stale then. */
  readonly content?: string;
}

export interface PlanInput {
  readonly lab: string;
  readonly pool: string;
  readonly master: PlanMaster;
  /** Masters that the lab has rolled away from. */
  readonly former: readonly PlanMaster[];
  /** Guest bytes of a seat's disk, where the lab file says. */
  readonly size?: number;
  /** Of the seats in the lab file, in order: what their definitions shall say. */
  readonly wanted: ReadonlyMap<string, { readonly definition: string }>;
  /** Of all seats: those of the lab file, and those that were made before. */
  readonly files: readonly SeatFiles[];
  /** Of seats whose disks are to be made on block devices: which one, and what is wrong with it. */
  readonly devices?: ReadonlyMap<string, { readonly path: string; readonly problem?: DeviceProblem }>;
  readonly prune: boolean;
  readonly guard: readonly Step[];
  readonly state: { readonly path: string; readonly before?: LabState; readonly after?: LabState };
}

/** Compares what is wanted with what is there. Pure, but for looking where backing names lead. */
export function makePlan(input: PlanInput): Plan {
  const steps: Step[] = [...input.guard];
  const problems: Problem[] = [];
  const stale: string[] = [];
  const unlisted: string[] = [];
  const notes: string[] = [];
  const former: string[] = [];
  const plan = { steps, problems, stale, former, unlisted, notes };

  for (const files of input.files) {
    const wanted = input.wanted.get(files.name);
    if (!wanted) {
      planUnlisted(input, files, plan);
      continue;
    }
    planDisk(input, files, plan);
    planDefinition(files, wanted.definition, plan);
  }
  const { before, after } = input.state;
  if (after === undefined || JSON.stringify(before) !== JSON.stringify(after)) {
    steps.push({ do: 'remember', path: input.state.path });
  }
  return plan;
}

interface Draft {
  readonly steps: Step[];
  readonly problems: Problem[];
  readonly stale: string[];
  readonly former: string[];
  readonly unlisted: string[];
  readonly notes: string[];
}

/** Whether a seat's disk is one that this lab made for it. */
export function isOurs(head: ImageHead, lab: string, seat: string): boolean {
  return head.provenance?.lab === lab && head.provenance.seat === seat;
}

/** Whether it is a block device that is set aside for a seat, with nothing on it yet. */
export function isMarkedFor({ mark }: ImageHead, lab: string, seat: string): boolean {
  return mark?.lab === lab && mark.seat === seat;
}

/** What is wrong with a disk that is a link to a device which is not there. */
export function leadsNowhere(target: string): DeviceProblem {
  return {
    what: `its disk is on '${target}', and there is no such device`,
    fix: 'activate the volume (vgchange -ay); where it is gone for good, remove the link',
  };
}

function planDisk(input: PlanInput, { name: seat, disk }: SeatFiles, draft: Draft): void {
  const { head, path } = disk;
  const device = input.devices?.get(seat);
  if (device?.problem) {
    draft.problems.push({ seat, path: device.path, ...device.problem });
    return;
  }
  if (head === undefined && disk.leadsTo !== undefined) {
    draft.problems.push({ seat, path, ...leadsNowhere(disk.leadsTo) });
    return;
  }
  if (disk.otherName !== undefined) {
    draft.problems.push({
      seat,
      path,
      what: `'${disk.otherName}' is in the place of its disk: this file system takes the two names for one`,
      fix: 'call the seat as it was, or otherwise',
    });
    return;
  }
  if (head === undefined || (device && isMarkedFor(head, input.lab, seat))) {
    const lost = input.state.before?.seats.some((one) => one.name === seat) ?? false;
    draft.steps.push({ do: 'create', seat, path, lost, device: device?.path });
    return;
  }
  if (!isOurs(head, input.lab, seat)) {
    draft.problems.push({
      seat,
      path,
      what: foreignDisk(head),
      fix: `move it away, or call the seat otherwise`,
    });
    return;
  }
  if (head.provenance!.flat) {
    planSize(input.size ?? head.size!, { seat, path }, head, draft);
    return;
  }
  const made = head.provenance!.master;
  const { content } = input.master;
  let { master } = input;
  if (content !== undefined && made !== content) {
    const former = input.former.find((one) => one.content === made);
    if (!former) {
      draft.stale.push(seat);
      return;
    }
    draft.former.push(seat);
    master = former;
  }
  const backing = backingPathOf(head);
  const sound =
    backing !== undefined &&
    fileIdentity(backing) === fileIdentity(master.path) &&
    head.backing?.format === master.format &&
    (backing === master.path || !isNumberedDevice(backing));
  if (!sound) {
    const to = pathFrom(input.pool, master.path);
    const from = head.backing?.path ?? 'nothing';
    draft.steps.push({ do: 'relink', seat, path, from, to, format: master.format });
  }
  planSize(input.size ?? master.size, { seat, path }, head, draft);
}

function planSize(
  wanted: number,
  disk: { readonly seat: string; readonly path: string },
  head: ImageHead,
  draft: Draft,
): void {
  const size = head.size!;
  if (size < wanted && head.fixedSize) {
    draft.problems.push({
      ...disk,
      what: `its disk has ${size} bytes of the ${wanted} that it shall have, and cannot grow: it has internal snapshots, and is of version 2 of qcow2`,
      fix: `snapshots survive growing in version 3: cow-img amend -o compat=1.1 '${disk.path}'`,
    });
  } else if (size < wanted) draft.steps.push({ do: 'grow', ...disk, from: size, to: wanted });
  else if (size > wanted) {
    draft.notes.push(largerDisk(disk.seat, size, wanted));
  }
}

/** Disks never shrink: what is said of one that is larger than the lab file wants it, in bytes. */
export function largerDisk(seat: string, size: number, wanted: number): string {
  return `${seat}: its disk has ${size} bytes, more than the lab file's ${wanted}; 'cowherd reset' makes it new`;
}

/** Why a disk in a seat's place is not the seat's. */
export function foreignDisk(head: ImageHead): string {
  if (head.damage !== undefined) return `its disk cannot be read: ${head.damage}`;
  if (head.mark)
    return `the device was set aside for ${head.mark.seat} of the lab "${head.mark.lab}", and holds nothing`;
  if (!head.provenance) return 'a file that Cowherd did not make is in the place of its disk';
  return `the disk in its place was made for ${head.provenance.seat} of the lab "${head.provenance.lab}"`;
}

function planDefinition(files: SeatFiles, wanted: string, draft: Draft): void {
  const { path, owner } = files.definition;
  const seat = files.name;
  if (owner?.kind === 'foreign') {
    draft.problems.push({
      seat,
      path,
      what: 'a file that Cowherd did not make is in the place of its definition',
      fix: 'move it away, or call the seat otherwise',
    });
  } else if (owner?.text !== wanted) {
    draft.steps.push({ do: 'define', seat, path, change: owner ? 'rewrite' : 'new', text: wanted });
  }
}

function planUnlisted(input: PlanInput, files: SeatFiles, draft: Draft): void {
  const { head } = files.disk;
  const paths: string[] = [];
  if (head && isOurs(head, input.lab, files.name)) paths.push(files.disk.path);
  if (files.definition.owner?.kind === 'ours') paths.push(files.definition.path);
  if (paths.length === 0) return;
  draft.unlisted.push(files.name);
  if (input.prune) draft.steps.push({ do: 'remove', seat: files.name, paths });
}
