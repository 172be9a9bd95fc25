// `node scripts/qemu-tests.mjs FOLDER [FORMAT] [TEST...]`: QEMU's own test suite (qemu-iotests, of the version that is
// installed) with cow-img and cow-nbd in the places of qemu-img and qemu-nbd, and where that differs from what it expects, with
// the originals. FOLDER keeps the suite, which comes from Debian's source package and is no part of this project, and for
// each test that differs a TEST.FORMAT.diff. Default: format qcow2, all tests in shell. Exit code 1: some differ.
import { execFileSync, spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join, resolve } from 'node:path';
import { installPackages, root, run } from './bootstrap.mjs';

const [folderName, format = 'qcow2', ...wanted] = process.argv.slice(2);
if (folderName === undefined) {
  console.error('usage: node scripts/qemu-tests.mjs FOLDER [FORMAT] [TEST...]');
  process.exit(2);
}
const folder = resolve(folderName);
const suite = join(folder, 'suite');
installPackages();
if (run(process.execPath, [join(root, 'scripts/build.mjs')]) !== 0) process.exit(1);
if (!existsSync(suite)) fetchSuite();
const tests = wanted.length > 0 ? wanted : shellTests();

const ours = check('ours', tests);
const unlike = tests.filter((test) => ours.get(test) === 'fail');
// What is expected there depends on the version and on how QEMU was built: the originals have the last word.
const theirs = check('theirs', unlike);
const differing = unlike.filter((test) => differs(test, theirs.get(test)));
const count = (result) => tests.filter((test) => ours.get(test) === result).length;
console.log(
  `${format}: ${count('pass')} pass, ${unlike.length - differing.length} end as with qemu-img itself, ` +
    `${count('not')} do not apply, ${differing.length} differ${differing.map((test) => ` ${test}`).join('')}`,
);
process.exitCode = differing.length > 0 ? 1 : 0;

/** Debian's source package, by a list of its own: the system's need not have sources. */
function fetchSuite() {
  const lists = join(folder, 'lists');
  mkdirSync(lists, { recursive: true });
  const sources = join(folder, 'deb-src.sources');
  const system = '/etc/apt/sources.list.d';
  const known = readdirSync(system)
    .filter((name) => name.endsWith('.sources'))
    .map((name) => readFileSync(join(system, name), 'utf8').replace(/^Types:.*$/gm, 'Types: deb-src'));
  writeFileSync(sources, known.join('\n'));
  const apt = (...line) => {
    const own = [
      'Dir::Etc::sourceparts=/dev/null',
      `Dir::Etc::sourcelist=${sources}`,
      `Dir::State::Lists=${lists}`,
    ];
    execFileSync('apt-get', [...own.flatMap((option) => ['-o', option]), ...line], {
      cwd: folder,
      stdio: 'inherit',
    });
  };
  apt('update');
  apt('source', '--download-only', 'qemu');
  const archive = readdirSync(folder).find((name) => name.endsWith('.orig.tar.xz'));
  mkdirSync(suite);
  const parts = ['*/tests/qemu-iotests/*', '*/python/*'];
  execFileSync('tar', [
    '-xJf',
    join(folder, archive),
    '-C',
    suite,
    '--strip-components=1',
    '--wildcards',
    ...parts,
  ]);
  const environment = join(suite, 'tests/qemu-iotests/testenv.py');
  // Debian's QEMU has no accelerator for tests.
  writeFileSync(environment, readFileSync(environment, 'utf8').replace('-accel qtest', '-accel tcg'));
}

/** Those that are scripts of a shell and start no QEMU to talk to. */
function shellTests() {
  const place = join(suite, 'tests/qemu-iotests');
  const names = [
    ...readdirSync(place).filter((name) => /^\d{3}$/.test(name)),
    ...readdirSync(join(place, 'tests')),
  ];
  return names
    .filter((name) => !name.includes('.'))
    .filter((name) => {
      const text = readFileSync(
        /^\d{3}$/.test(name) ? join(place, name) : join(place, 'tests', name),
        'utf8',
      );
      return text.startsWith('#!/usr/bin/env bash') && !/_launch_qemu|common\.qemu/.test(text);
    })
    .sort();
}

/** Runs tests with the programs of one side; gives 'pass', 'fail' or 'not' (run) by test. */
function check(side, names) {
  const results = new Map();
  if (names.length === 0) return results;
  // The suite keeps what came out beside itself.
  const place = join(suite, 'tests', side);
  rmSync(place, { recursive: true, force: true });
  cpSync(join(suite, 'tests/qemu-iotests'), place, { recursive: true });
  rmSync(scratch(side), { recursive: true, force: true });
  const programs = join(folder, `programs-${side}`);
  rmSync(programs, { recursive: true, force: true });
  mkdirSync(programs);
  for (const [name, own] of [
    ['qemu-img', 'cow-img'],
    ['qemu-nbd', 'cow-nbd'],
  ]) {
    symlinkSync(
      side === 'ours' ? join(root, 'bin', `${own}.js`) : join('/usr/bin', name),
      join(programs, name),
    );
  }
  const { stdout } = spawnSync('python3', ['./check', `-${format}`, ...names], {
    cwd: place,
    encoding: 'utf8',
    maxBuffer: 2 ** 30,
    stdio: ['ignore', 'pipe', 'inherit'],
    env: {
      ...process.env,
      QEMU_PROG: '/usr/bin/qemu-system-x86_64',
      QEMU_IO_PROG: '/usr/bin/qemu-io',
      QSD_PROG: '/usr/bin/qemu-storage-daemon',
      QEMU_IMG_PROG: join(programs, 'qemu-img'),
      QEMU_NBD_PROG: join(programs, 'qemu-nbd'),
      TEST_DIR: scratch(side),
      SOCK_DIR: join(scratch(side), 's'),
    },
  });
  for (const [, name, result] of stdout.matchAll(/^(?:.*\r)?(\S+) +(pass|fail|not)(?: run)? +\[/gm)) {
    results.set(name, result);
    if (side === 'ours') console.log(`${name} ${result}`);
  }
  return results;
}

function scratch(side) {
  return join(folder, `scratch-${side}`);
}

/** Whether a test ends otherwise with us than with the originals; keeps the difference. */
function differs(test, theirResult) {
  const expected = [`${test}.out`, `tests/${test}.out`]
    .map((name) => join(suite, 'tests/qemu-iotests', name))
    .find((path) => existsSync(path));
  const text = (path) =>
    existsSync(path) ? readFileSync(path, 'utf8').replace(/scratch-(ours|theirs)/g, 'scratch') : '';
  const [left, right] = ['left', 'right'].map((name) => join(folder, name));
  writeFileSync(
    left,
    text(theirResult === 'fail' ? join(scratch('theirs'), `${test}.out.bad`) : (expected ?? '')),
  );
  writeFileSync(right, text(join(scratch('ours'), `${test}.out.bad`)));
  const kept = join(folder, `${test}.${format}.diff`);
  const { stdout, status } = spawnSync('diff', ['-u', left, right], { encoding: 'utf8' });
  rmSync(kept, { force: true });
  if (status !== 0) writeFileSync(kept, stdout);
  return status !== 0;
}
