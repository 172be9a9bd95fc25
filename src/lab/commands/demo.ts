import { existsSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { cowImg } from '../../cli/cow-img.ts';
import { progressBar } from '../../cli/progress-bar.ts';
import { humanSize } from '../../cli/sizes.ts';
import { DiskError } from '../../errors.ts';
import { assertNoDependents } from '../../platform/dependents.ts';
import { makeFolder } from '../../platform/json-file.ts';
import { cowherd } from '../cowherd.ts';
import { exampleLab } from '../demo/example-lab.ts';
import { canInstallQemu, installQemu } from '../demo/get-qemu.ts';
import { assertDemosOwn, labFile } from '../demo/own-place.ts';
import { Stage } from '../demo/stage.ts';
import { count, milliseconds, table } from '../describe.ts';
import { readImageHead } from '../disks/overlay.ts';
import { makeDemoMaster } from '../guest/demo-master.ts';
import { seatProgram } from '../guest/program.ts';
import { type Lab, openLab, seatPaths } from '../lab.ts';
import { findQemu } from '../runner/qemu-command.ts';
import { type LabCommand, say } from './command.ts';

/** Guest bytes of the demo master, and how much of them is there to copy. */
const masterBytes = 256 * 1024 * 1024;
const payloadBytes = 48 * 1024 * 1024;

/** The two seats that boot again, the first of which is reset. */
const encores = ['student-07', 'student-23'] as const;

/**
 * `cowherd demo [DIR]`: the product at work in a folder (this one), by the commands that a user would type. All it makes
 * lies in DIR/.demo and, where it is missing, DIR/examples/classroom.yaml. Can be run again; throws `exists` where that file is somebody's.
 */
export const run: LabCommand = async (input, context) => {
  const folder = resolve(context.cwd, input.operands[0] ?? '.');
  assertDemosOwn(folder, context.program);
  const began = performance.now();
  const stage = new Stage({ ...context, stdin: context.stdin, cwd: folder });
  makeFolder(folder);
  // cow-img takes names as the system does: from the process's own folder.
  process.chdir(folder);
  const file = join(folder, labFile);
  if (!existsSync(file)) {
    makeFolder(dirname(file));
    writeFileSync(file, exampleLab);
  }
  await clearStage(stage);
  await makeMaster(stage);

  stage.scene('Forty seats on it: cowherd up');
  await stage.type(`cowherd up ${labFile}`, cowherd);
  const lab = openLab(labFile, folder);

  stage.scene('Boot all forty');
  const boots = await haveQemu(stage);
  if (boots) await bootAll(stage, lab);

  stage.scene('What that cost, and what it left untouched');
  await stage.type(`cowherd status ${labFile} --verify --brief`, cowherd);
  stage.tell(costs(lab));
  if (boots) await encore(stage, lab);
  else await stage.type(`cowherd reset ${labFile} ${encores[0]}`, cowherd);

  stage.scene('The chain');
  await stage.type(`cowherd tree ${labFile}`, cowherd);
  farewell(stage, lab, performance.now() - began, folder === context.cwd ? undefined : folder);
  return 0;
};

/** Takes down what an earlier run left. */
async function clearStage(stage: Stage): Promise<void> {
  const { cwd } = stage.context;
  const lab = openLab(labFile, cwd);
  if (lab.state) await stage.type(`cowherd down ${labFile} --stop`, cowherd);
  for (const path of [lab.spec.master.path, rawOf(lab)]) {
    if (!existsSync(path)) continue;
    await assertNoDependents(path);
    rmSync(path);
  }
}

function rawOf(lab: Lab): string {
  return lab.spec.master.path.replace(/\.qcow2$/, '.raw');
}

async function makeMaster(stage: Stage): Promise<void> {
  const { context } = stage;
  const lab = openLab(labFile, context.cwd);
  const raw = rawOf(lab);
  stage.scene(
    `A golden image, made here: a guest of ${seatProgram().bytes.length} bytes that counts its boots on its own disk`,
  );
  makeFolder(dirname(raw));
  const bar = progressBar(context, { label: 'demo master' });
  await makeDemoMaster(raw, {
    size: masterBytes,
    payloadBytes,
    onProgress: (done, total) => bar.update(done, total),
  });
  bar.end();
  const names = [raw, lab.spec.master.path].map((path) => relative(context.cwd, path));
  await stage.type(`cow-img convert -p -f raw -O qcow2 ${names[0]} ${names[1]}`, cowImg);
  rmSync(raw);
}

/** Whether guests can boot here; installs QEMU where that is allowed, else says how to get it. */
async function haveQemu(stage: Stage): Promise<boolean> {
  if (findQemu() !== undefined) return true;
  if (canInstallQemu()) {
    stage.tell('QEMU is not installed here yet: apt-get install qemu-system-x86 seabios …');
    if (await installQemu(stage.context.signal)) return true;
    stage.tell('That did not work (no network, perhaps).');
  }
  stage.tell('Booting needs QEMU, which was not found. Everything else works without it. To get it:');
  stage.tell('  Debian, Ubuntu   sudo apt-get install qemu-system-x86');
  stage.tell('  Fedora           sudo dnf install qemu-system-x86-core');
  stage.tell('  macOS            brew install qemu');
  return false;
}

async function bootAll(stage: Stage, lab: Lab): Promise<void> {
  const heard = await stage.type(`cowherd start ${labFile} --watch`, cowherd);
  for (const seat of lab.seats.keys()) expectBoots(heard, seat, 1);
}

/** Two seats boot again; one is reset, and begins anew. */
async function encore(stage: Stage, lab: Lab): Promise<void> {
  const [first, second] = encores.map((name) => (lab.seats.has(name) ? name : [...lab.seats.keys()][0]));
  stage.tell('\nEach seat remembers: two of them boot again, and their count goes on.');
  let heard = await stage.type(`cowherd start ${labFile} ${first},${second} --watch`, cowherd);
  for (const seat of [first, second]) expectBoots(heard, seat, 2);
  stage.tell(
    `\nThe lesson went wrong on ${first}: it is made as fresh as the master, and counts from the beginning.`,
  );
  await stage.type(`cowherd reset ${labFile} ${first}`, cowherd);
  heard = await stage.type(`cowherd start ${labFile} ${first} --watch`, cowherd);
  expectBoots(heard, first, 1);
}

/** The guest's own words are the proof; without them the demo has failed. */
function expectBoots(heard: string, seat: string, boots: number): void {
  if (heard.includes(`cowherd seat=${seat} boots=${boots} `)) return;
  throw new DiskError('io', `${seat} did not say that it booted from its own disk with a count of ${boots}`, {
    detail: { fix: 'its serial line is above' },
  });
}

/** Bytes of the seats' disks against as many copies of the master. */
function costs(lab: Lab): string {
  const { size, blocks } = statSync(lab.spec.master.path);
  const heads = [...lab.seats.keys()].map((seat) => readImageHead(seatPaths(lab.pool, seat).disk));
  const apparent = heads.reduce((sum, head) => sum + (head?.apparent ?? 0), 0);
  const allocated = heads.reduce((sum, head) => sum + (head?.allocated ?? 0), 0);
  const copies = lab.seats.size;
  return table(
    [
      ['', 'ls -l', 'du'],
      [`${copies} copies of the master`, humanSize(size * copies), humanSize(blocks * 512 * copies)],
      [`${copies} clones`, humanSize(apparent), humanSize(allocated)],
    ],
    [1, 2],
  );
}

function farewell(stage: Stage, lab: Lab, ms: number, folder: string | undefined): void {
  stage.tell(
    `\n${count(lab.seats.size, 'seat')}, one master, ${milliseconds(ms)}. To go on${folder ? ` (cd ${folder})` : ''}:`,
  );
  const rows = [
    ['cowherd status examples/classroom.yaml', 'who is doing what'],
    ['cowherd start examples/classroom.yaml student-01..05 --watch', 'boot some'],
    ['cowherd reset examples/classroom.yaml all', 'the next class may come'],
    [`cowherd who-uses ${relative(stage.context.cwd, lab.spec.master.path)}`, 'find the clones of an image'],
    ['cow-img info --backing-chain .demo/classroom/student-01.qcow2', 'an image, as qemu-img shows it'],
    ['cowherd down examples/classroom.yaml', 'remove it all'],
  ];
  say(stage.context, table(rows.map(([line, what]) => [`  ${line}`, what])));
  say(stage.context, "Here: 'npx cowherd …' (or 'npm link' once, then 'cowherd' alone).");
}
