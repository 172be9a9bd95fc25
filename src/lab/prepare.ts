import { basename, dirname, join } from 'node:path';
import { isDiskError } from '../errors.ts';
import { readHead } from '../platform/json-file.ts';
import { describeSeats } from './describe.ts';
import { type DeviceProblem, deviceFor, deviceNumber, deviceProblem } from './disks/device-disk.ts';
import { isSameFile, linkTarget, nameExists, readImageHead } from './disks/overlay.ts';
import { type DefinitionKind, definitionOf, definitionOwner } from './domain/definition.ts';
import { definitionKind } from './domain/definition-kind.ts';
import { poolUuid } from './domain/identity.ts';
import { guardNeeds, type Hold } from './guard/guard.ts';
import { filesIn, type Lab, masterNameOf, placesOf, seatPaths, withoutOriginal } from './lab.ts';
import {
  computeContent,
  type DigestOptions,
  inspectMaster,
  isAsRecorded,
  type Master,
  masterChanged,
  masterState,
  rememberedContent,
} from './masters/master.ts';
import { assertMasterApart } from './masters/own-master.ts';
import { wholeMessage } from './messages.ts';
import {
  isMarkedFor,
  isOurs,
  makePlan,
  type Plan,
  type PlanInput,
  type Problem,
  type SeatFiles,
  type Step,
} from './plan.ts';
import { formerPoolNote, formerPoolOf, formerPoolProblem } from './pool/changed-pool.ts';
import { type LostPool, lostPoolOf, lostPoolProblem } from './pool/lost-pool.ts';
import { folderAfter, holdsOfOriginal, originalNote, withProved } from './pool/original.ts';
import { strayProblems, type Where } from './pool/whereabouts.ts';
import type { Runner } from './runner/runner.ts';
import { memoryWithoutDisk, savedAmong, waysOut } from './seats/saved-memory.ts';
import { planExtras, withExtraFiles } from './seats/seat-extras.ts';
import { type Forecast, forecastOf, overcommitted, warningsOf } from './space/forecast.ts';
import { planReserve } from './space/reserve.ts';
import { assertMakeable } from './spec/load.ts';
import { vetRelinks } from './standing/footing.ts';
import { formerInUse, isRoll, masterPath, mastersOf } from './standing/former.ts';
import { type LabState, type MasterState, withPlaces } from './state.ts';

/** What `up` found and would do. */
export interface Prepared {
  readonly lab: Lab;
  readonly master: Master;
  /** Undefined: it has not been computed. */
  readonly content?: string;
  readonly hold: Hold;
  readonly after?: LabState;
  /** The lab file names another master than before: seats that are there stay on the former one. */
  readonly rolls: boolean;
  readonly plan: Plan;
  /** Seats that were made before, of which nothing is in the pool: given up (`forgetGone`), or a problem of the plan. */
  readonly lost?: LostPool;
  /** What is given up (`forgetGone`) of the pool that this one was copied from. */
  readonly original: ReturnType<typeof holdsOfOriginal>;
  /** Why disks must not be made, by the lab file's policy. */
  readonly refused?: string;
}

export interface PrepareOptions {
  /** Asked for what definitions need, and which seats it lacks. Absent: nothing of the kind is known. */
  readonly runner?: Runner;
  /** Seats whose definitions leave it to the hypervisor to read the disk's chain, whatever that is now. */
  readonly loose?: ReadonlySet<string>;
  /** Removes seats that are not in the lab file any more. */
  readonly prune?: boolean;
  /** Seats whose devices may hold anything: it is given up. */
  readonly overwrite?: ReadonlySet<string>;
  /** Seats of which nothing is in the pool any more are given up. */
  readonly forgetGone?: boolean;
  /** What the hosts said of where the seats are. Absent: they were not asked. */
  readonly where?: Pick<Where, 'problems' | 'surplus' | 'answered'>;
  /** Computes the master's digest where it is not known. Absent: it stays unknown. */
  readonly digest?: DigestOptions;
}

/** Looks at the master and the pool and makes the plan. Changes nothing but the memory of the master's digest. */
export async function prepareUp(given: Lab, options: PrepareOptions = {}): Promise<Prepared> {
  const lab = options.forgetGone ? withoutOriginal(given) : given;
  assertMakeable(lab.spec);
  const master = await masterOf(lab);
  assertMasterApart(
    lab,
    master.files.map((one) => one.path),
  );
  const { spec, state } = lab;
  checkSize(lab, master);
  if (spec.cdrom !== undefined && !nameExists(spec.cdrom)) {
    throw spec.mistake(['cdrom'], `there is no file '${spec.cdrom}'`, 'paths are relative to the lab file');
  }
  let content = knownContent(lab, master);
  if (content === undefined && options.digest) content = await computeContent(master, options.digest);

  const files = seatFilesIn(lab);
  const listed = files.filter((one) => lab.seats.has(one.name));
  const kept = options.prune ? listed : files;
  const hold: Hold = {
    id: lab.id,
    lab: lab.name,
    state: lab.statePath,
    files: master.files.map((one) => one.path),
    disks: kept.map((one) => one.disk.path),
    immutable: spec.guard === 'immutable',
  };
  const ofOriginal = holdsOfOriginal(lab);
  const original = options.forgetGone ? ofOriginal : [];
  const rolls = content !== undefined && isRoll(state, lab.pool, master, content);
  const former = formerAfter(lab, content, rolls, files);
  const after = content === undefined ? undefined : stateAfter(lab, master, content, kept, former, options);
  const made = makePlan({
    lab: lab.name,
    pool: lab.pool,
    master: { path: master.path, format: master.format, size: master.size, content },
    former: former.map((one) => ({ ...one, path: masterPath(one, lab.pool) })),
    size: spec.disk.size,
    wanted: wantedDefinitions(
      lab,
      former,
      files,
      await definitionKind(lab, master, options.runner),
      options.loose ?? new Set(),
    ),
    files,
    devices: await devicesFor(lab, files, hold.files, options.overwrite ?? new Set()),
    prune: options.prune ?? false,
    guard: [...guardNeeds(hold), ...original].map(({ path, what }): Step => ({ do: 'guard', path, what })),
    state: { path: lab.statePath, before: state, after },
  });
  const plan = await vetRelinks(lab, made, options.digest);
  const extras = planExtras(lab);
  const { where } = options;
  const registered = await registrations(lab, plan, options.runner);
  const lost = lostPoolOf(lab);
  const elsewhere = formerPoolOf(lab);
  const problems = [
    ...(lost && !options.forgetGone ? [lostPoolProblem(lost)] : []),
    ...(elsewhere?.own ? [formerPoolProblem(elsewhere, lab)] : []),
    ...strayProblems(lab, options.prune ?? false),
    ...(where?.problems ?? []),
    ...(rolls ? [] : changedMaster(lab, plan, content)),
    ...plan.problems,
    ...extras.problems,
    ...((await options.runner?.obstacles?.(registered.map(({ seat }) => lab.seats.get(seat)!))) ?? []),
  ];
  const steps = [
    ...(where?.surplus ?? []).map((one): Step => ({ do: 'withdraw', ...one })),
    ...withExtraFiles(lab, plan.steps),
    ...extras.steps,
    ...(await planReserve(lab, files)),
    ...registered,
  ];
  const memory = await savedMemories(lab, steps, options.runner);
  const space = forecastNotes(lab, steps, await forecastOf(lab, kept, master.size));
  const detached = await detachedBy(lab, registered, options.runner);
  const copied = elsewhere && !elsewhere.own ? [formerPoolNote(elsewhere, lab)] : [];
  copied.push(...ofOriginal.slice(original.length).map(({ path }) => originalNote(path, 'up')));
  const notes = [...copied, ...plan.notes, ...extras.notes, ...memory.notes, ...detached, ...space.notes];
  return {
    lab,
    master,
    content,
    hold,
    after: after && withProved(after, lab.pool, options.runner?.provedPools?.() ?? []),
    rolls,
    lost,
    original,
    plan: { ...plan, steps, problems: [...problems, ...memory.problems], notes },
    refused: space.refused,
  };
}

/** What is to be done to disks that guests' memories were saved over: asked for where anything is, and of all seats at once. */
async function savedMemories(
  lab: Lab,
  steps: readonly Step[],
  runner: Runner | undefined,
): Promise<{ readonly problems: readonly Problem[]; readonly notes: readonly string[] }> {
  const doing = steps.flatMap((step) =>
    step.do === 'create' || step.do === 'grow' || step.do === 'remove' ? [step] : [],
  );
  const seats = doing.flatMap((step) => lab.seats.get(step.seat) ?? lab.unlisted.get(step.seat) ?? []);
  const saved = new Set(runner ? await savedAmong(seats, runner) : []);
  const gone = doing.flatMap((step) => (step.do === 'remove' && saved.has(step.seat) ? [step.seat] : []));
  const problems = doing.flatMap((step): Problem[] => {
    if (step.do === 'remove' || !saved.has(step.seat)) return [];
    const { seat, path } = step;
    return step.do === 'grow'
      ? [
          {
            seat,
            path,
            what: 'its memory was saved, and its disk cannot grow under that',
            fix: waysOut({ lab: lab.name, name: seat }),
          },
        ]
      : [
          {
            seat,
            path,
            what: 'its disk is gone, and a memory was saved over it',
            fix: memoryWithoutDisk({ lab: lab.name, name: seat }),
          },
        ];
  });
  return {
    problems,
    notes: gone.length > 0 ? [`a saved memory goes with its seat: ${describeSeats(gone)}`] : [],
  };
}

/** A domain that is told anew loses the disks that somebody gave it besides its own. */
async function detachedBy(
  lab: Lab,
  registered: readonly { readonly seat: string }[],
  runner: Runner | undefined,
): Promise<readonly string[]> {
  const known = registered.flatMap(({ seat }) => lab.seats.get(seat) ?? []);
  // The definition that is there says what it was given by us.
  const before = known.filter((seat) => nameExists(seat.definition));
  if (before.length === 0) return [];
  const beside = (await runner?.beside?.(before)) ?? [];
  return beside.flatMap(({ seat, disks }) =>
    disks.map(
      (path) =>
        `${seat}: its domain is defined anew, without '${path}' that somebody attached (the file stays; virsh attach-disk --config)`,
    ),
  );
}

/** What is to be said of the room that the seats may come to need. Only what would be made can be refused. */
function forecastNotes(
  { spec }: Lab,
  steps: readonly Step[],
  forecast: Forecast,
): { readonly refused?: string; readonly notes: readonly string[] } {
  const grows = steps.some((step) => step.do === 'create' || step.do === 'add' || step.do === 'grow');
  const refused = grows ? overcommitted(forecast, spec.overcommit) : undefined;
  return { refused, notes: refused ? [`it will not be made: ${refused}`] : warningsOf(forecast) };
}

/** Seats that the runner is to be told of: those whose definition changes, and those that it does not know as they are. */
async function registrations(
  lab: Lab,
  plan: Plan,
  runner: Runner | undefined,
): Promise<readonly { readonly do: 'register'; readonly seat: string }[]> {
  if (!runner || lab.spec.runner !== 'libvirt') return [];
  const changed = new Set(plan.steps.flatMap((step) => (step.do === 'define' ? [step.seat] : [])));
  const others = [...lab.seats.values()].filter(
    (seat) => !changed.has(seat.name) && nameExists(seat.definition),
  );
  const pending = new Set((await runner.pending(others)).map((seat) => seat.name));
  return [...lab.seats.keys()]
    .filter((seat) => changed.has(seat) || pending.has(seat))
    .map((seat) => ({ do: 'register', seat }));
}

/** Seats that were made on another content of the master than it has now stop everything. */
function changedMaster(lab: Lab, plan: Plan, content: string | undefined): readonly Problem[] {
  const before = lab.state?.master.content;
  if (before === undefined || content === undefined || content === before || plan.stale.length === 0)
    return [];
  const { detail } = masterChanged(lab, plan.stale, otherContent);
  const what = `the master changed since its clones were made, ${otherContent}`;
  return [{ path: lab.spec.master.path, what, fix: String(detail.fix) }];
}

/** What became of a master whose digest is not what it was. */
export const otherContent = 'its content is another one';

/**
 * Definitions as they shall be. One of a seat on a former master leaves it to libvirt to read the chain: it is right for the
 * disk that is there, and for the one that a reset will put in its place.
 */
function wantedDefinitions(
  lab: Lab,
  former: readonly MasterState[],
  files: readonly SeatFiles[],
  kind: DefinitionKind,
  loose: ReadonlySet<string>,
): PlanInput['wanted'] {
  const wanted = new Map<string, { definition: string }>();
  const present = masterNameOf(lab.spec.master.path);
  for (const { name, disk, definition } of files) {
    const seat = lab.seats.get(name);
    if (!seat) continue;
    const made = disk.head?.provenance?.master;
    const on = former.find((one) => one.content === made);
    const master = on ? masterPath(on, lab.pool) : present;
    const own = on || disk.head?.provenance?.flat || loose.has(name) ? { ...kind, backing: undefined } : kind;
    wanted.set(name, { definition: definitionOf({ ...seat, master }, own, definition.owner?.text) });
  }
  return wanted;
}

/** The master as it is. Blames the lab file's line where it cannot be opened, or is not what its name says. */
async function masterOf(lab: Lab): Promise<Master> {
  const { path, format } = lab.spec.master;
  let master: Master;
  try {
    master = await inspectMaster(path, format);
  } catch (error) {
    if (!isDiskError(error, 'not-found')) throw error;
    const hint =
      lab.spec.guest === 'demo'
        ? `'cowherd demo' makes the demo master`
        : 'paths are relative to the lab file; is the name right?';
    throw lab.spec.mistake(['master'], wholeMessage(error), hint);
  }
  if (isSameFile(path, lab.spec.file)) {
    throw lab.spec.mistake(
      ['master'],
      'it is the lab file itself',
      'name the image that the seats start from',
    );
  }
  if (format !== undefined || master.format !== 'raw') return master;
  const fix = 'if it is a raw image, say so: master: {path: FILE, format: raw}';
  const ending = /\.(qcow2?|vmdk|vdi|vhdx?|vpc|qed)$/i.exec(path)?.[1];
  if (ending !== undefined) {
    // A damaged header makes an image raw to everybody who guesses.
    const message = `its name ends in .${ending}, but what it holds is no such image`;
    throw lab.spec.mistake(['master'], message, fix);
  }
  if (isOnlyText(master.files[0])) {
    throw lab.spec.mistake(['master'], 'what it holds is text, and no image', fix);
  }
  return master;
}

/** Whether a file begins as text does, and is of a size that no disk has. */
function isOnlyText({ path, size }: { readonly path: string; readonly size: number }): boolean {
  if (size % 512 === 0) return false;
  const sector = new Uint8Array(512);
  const text = new TextDecoder().decode(sector.subarray(0, readHead(path, sector)));
  return !/[^\P{Cc}\t\n\r\f]/u.test(text);
}

function checkSize(lab: Lab, master: Master): void {
  const { size } = lab.spec.disk;
  if (size === undefined || size >= master.size) return;
  throw lab.spec.mistake(
    ['disk', 'size'],
    `the disk would be smaller than its master, which has ${master.size} bytes`,
    'leave it out, or make it at least as large',
  );
}

/** The master's digest as far as it is known without reading it whole. */
function knownContent(lab: Lab, master: Master): string | undefined {
  const known = lab.state?.master;
  if (known && isAsRecorded(master, known, lab.pool)) return known.content;
  return rememberedContent(master);
}

/** The former masters that seats will stand on then. */
function formerAfter(
  { state }: Lab,
  content: string | undefined,
  rolls: boolean,
  files: readonly SeatFiles[],
): readonly MasterState[] {
  if (!state || content === undefined) return state?.former ?? [];
  const disks = files.map((one) => one.disk.path);
  const known = rolls ? mastersOf(state) : (state.former ?? []);
  return formerInUse(known, content, disks);
}

function stateAfter(
  lab: Lab,
  master: Master,
  content: string,
  files: readonly SeatFiles[],
  former: readonly MasterState[],
  options: Pick<PrepareOptions, 'runner' | 'where'>,
): LabState {
  const seats = files.map(({ name }) => {
    const seat = lab.seats.get(name) ?? lab.unlisted.get(name);
    return { name, mac: seat?.mac ?? '', ...(seat?.host === undefined ? {} : { host: seat.host }) };
  });
  const state = {
    version: 1,
    id: lab.id,
    lab: lab.name,
    master: masterState(master, content, lab.pool, lab.state?.master),
  } as const;
  const libvirt = libvirtAfter(lab, seats, options);
  const places = placesAfter(lab);
  return {
    ...state,
    ...(former.length > 0 ? { former: [...former] } : {}),
    seats,
    ...(Object.keys(libvirt).length > 0 ? { libvirt } : {}),
    ...(places.length > 0 ? { places: [...places] } : {}),
    ...(lab.state?.folder ? { folder: folderAfter(lab) } : {}),
  };
}

/** Where the pool has lain then, this place among them unless the lab's signature says so. */
function placesAfter({ id, name, pool, state }: Lab): readonly string[] {
  const places = placesOf(state, id);
  const isKnown = places.length > 0 ? places.at(-1) === pool : poolUuid(name, pool) === id;
  return isKnown ? places : withPlaces(places, pool);
}

/** Which libvirts have the seats' domains then: those that answer as the lab file has them, the others as they were. */
function libvirtAfter(
  { spec, state }: Lab,
  seats: LabState['seats'],
  { runner, where }: Pick<PrepareOptions, 'runner' | 'where'>,
): Record<string, string> {
  // What has become of another libvirt than this is for `up` to say, which has looked.
  if (!spec.hosts && !where && state?.libvirt?.[''] !== undefined) return state.libvirt;
  const used = new Set((spec.hosts ?? []).map(({ name }) => name));
  for (const { host } of seats) used.add(host ?? '');
  if (!spec.hosts) used.delete('');
  const before = Object.entries(state?.libvirt ?? {}).filter(([host]) => used.has(host));
  const now = spec.hosts
    ? spec.hosts.flatMap(({ name, uri }) => (where?.answered.has(name) ? [[name, uri] as const] : []))
    : runner?.uri === undefined
      ? []
      : [['', runner.uri] as const];
  return Object.fromEntries([...before, ...now].sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** The files of every seat: those of the lab file in its order, then those that were made before. */
export function seatFilesIn(lab: Lab): readonly SeatFiles[] {
  const present = filesIn(lab.pool);
  const isThere = (path: string) => present.has(basename(path));
  return [...lab.seats.keys(), ...lab.unlisted.keys()].map((name) => {
    const { disk, definition } = seatPaths(lab.pool, name);
    const owner = isThere(definition) ? definitionOwner(definition, lab.name, name) : undefined;
    return {
      name,
      disk: isThere(disk) ? diskIn(disk) : { path: disk, otherName: otherNameOf(disk, present) },
      definition: { path: definition, owner },
    };
  });
}

/** What a path leads to that the folder has by another name: on a file system that makes no difference between A and a, or between two ways to write ä. */
function otherNameOf(path: string, present: ReadonlySet<string>): string | undefined {
  if (!nameExists(path)) return undefined;
  const folded = (name: string) => name.normalize('NFC').toLowerCase();
  const twin = [...present].find((name) => folded(name) === folded(basename(path)));
  return twin !== undefined && isSameFile(path, join(dirname(path), twin)) ? twin : undefined;
}

function diskIn(path: string): SeatFiles['disk'] {
  const head = readImageHead(path);
  return head ? { path, head } : { path, leadsTo: linkTarget(path) };
}

function ownDeviceFix({ seats }: Lab, seat: string, other: string): string {
  if (seats.has(other)) return 'give each seat a device of its own';
  return `give each seat a device of its own; or take ${seat} out of the lab file until 'cowherd up --prune' has given up ${other}`;
}

/** The devices of listed seats that have no disk yet, and what is wrong with them. */
async function devicesFor(
  lab: Lab,
  files: readonly SeatFiles[],
  masters: readonly string[],
  overwrite: ReadonlySet<string>,
): Promise<NonNullable<PlanInput['devices']>> {
  const devices = new Map<string, { path: string; problem?: DeviceProblem }>();
  if (lab.spec.disk.device === undefined) return devices;
  const seatOn = new Map<number, string>();
  for (const { name: seat, disk } of files) {
    // One that is not listed any more is kept, unless nothing is on its device.
    if (!lab.seats.has(seat) && !(disk.head && isOurs(disk.head, lab.name, seat))) continue;
    const number = deviceNumber(disk.path);
    if (number !== undefined) seatOn.set(number, seat);
  }
  for (const { name: seat, disk } of files) {
    if (!lab.seats.has(seat)) continue;
    const path = deviceFor(lab, seat);
    if (path === undefined || (disk.head && !isMarkedFor(disk.head, lab.name, seat))) continue;
    const number = deviceNumber(path);
    const other = number === undefined ? undefined : seatOn.get(number);
    if (number !== undefined) seatOn.set(number, seat);
    devices.set(seat, {
      path,
      problem:
        other !== undefined && other !== seat
          ? { what: `'${path}' is the device of ${other}`, fix: ownDeviceFix(lab, seat, other) }
          : await deviceProblem(path, { lab: lab.name, seat }, { anyContent: overwrite.has(seat), masters }),
    });
  }
  return devices;
}
