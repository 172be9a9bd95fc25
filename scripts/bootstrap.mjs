// What a fresh clone lacks, brought in: npm packages, the build, and (as root on Debian) system packages.
import { spawnSync } from 'node:child_process';
import { existsSync, lstatSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = join(dirname(fileURLToPath(import.meta.url)), '..');

const oldestNode = 20;

/** Ends the process with a plain sentence. */
function fail(sentence) {
  console.error(sentence);
  process.exit(1);
}

/** Runs a program from the project's root; its output goes to the terminal, unless `quiet` holds it back until it fails. */
export function run(command, args, { quiet = false, env = {} } = {}) {
  const result = spawnSync(command, args, {
    cwd: root,
    stdio: quiet ? ['ignore', 'pipe', 'pipe'] : ['ignore', 'inherit', 'inherit'],
    env: { ...process.env, ...env },
    maxBuffer: 64 * 1024 * 1024,
  });
  if (quiet && result.status !== 0) process.stderr.write(`${result.stdout ?? ''}${result.stderr ?? ''}`);
  return result.status ?? 1;
}

/** Whether a program of that name is on PATH (or where Debian puts administrators' programs). */
export function onPath(program) {
  const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin'];
  return folders.some((folder) => folder !== '' && existsSync(join(folder, program)));
}

/** npm packages by the lock file, once; again when the lock file is newer than what is installed. */
export function installPackages() {
  if (Number(process.versions.node.split('.')[0]) < oldestNode) {
    fail(`Cowherd needs Node ${oldestNode} or newer; this is ${process.versions.node}.`);
  }
  const installed = join(root, 'node_modules/.package-lock.json');
  const lock = join(root, 'package-lock.json');
  if (existsSync(installed) && statSync(installed).mtimeMs >= statSync(lock).mtimeMs) return;
  // npm would empty the folder that the link of a second work tree leads to.
  if (existsSync(installed) && lstatSync(join(root, 'node_modules')).isSymbolicLink()) return;
  console.error('Installing npm packages …');
  // What an outer npm was told (--dry-run, --omit=dev) is not meant for these.
  const asked = ['--include=dev', '--dry-run=false', '--no-audit', '--no-fund', '--loglevel=error'];
  if (run('npm', ['ci', ...asked], { quiet: true }) !== 0) {
    fail('npm ci failed; its output is above.');
  }
}

/** The newest modification time of a file below `folder`, in milliseconds. */
function newest(folder) {
  let latest = 0;
  for (const entry of readdirSync(folder, { withFileTypes: true, recursive: true })) {
    if (entry.isFile())
      latest = Math.max(latest, statSync(join(entry.parentPath ?? entry.path, entry.name)).mtimeMs);
  }
  return latest;
}

/** Builds dist/ when a source is newer than it. */
export function buildWhenNeeded() {
  const built = join(root, 'dist/programs/cowherd.cjs');
  if (
    existsSync(built) &&
    statSync(built).mtimeMs >= Math.max(newest(join(root, 'src')), newest(join(root, 'scripts')))
  )
    return;
  console.log('Building …');
  if (run(process.execPath, ['scripts/build.mjs'], { quiet: true }) !== 0)
    fail('The build failed; its output is above.');
}

const triplet = `${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu`;
/** What packs zlib's clusters in half of the time, and has the fastest AES on most processors. Not programs, so that they are known by their files. */
export const libraries = {
  [`/usr/lib/${triplet}/libdeflate.so.0`]: 'libdeflate0',
  [`/usr/lib/${triplet}/libgcrypt.so.20`]: 'libgcrypt20',
};

/** Whether there is such a file; `*` at the end of its name stands for anything. */
function hasFile(path) {
  if (!path.endsWith('*')) return existsSync(path);
  const folder = dirname(path);
  return (
    existsSync(folder) && readdirSync(folder).some((name) => join(folder, name).startsWith(path.slice(0, -1)))
  );
}

function debianPackagesCanBeInstalled() {
  return process.getuid?.() === 0 && onPath('apt-get') && existsSync('/etc/debian_version');
}

/**
 * Installs Debian packages whose program is missing, where that is allowed.
 * @param {Record<string, string>} wanted program → package; instead of a program a file, whose name may end in `*`
 * @returns {string[]} packages that are still missing
 */
export function installDebianPackages(wanted) {
  const missing = () => [
    ...new Set(
      Object.entries(wanted)
        .filter(([program]) => !(program.startsWith('/') ? hasFile(program) : onPath(program)))
        .map(([, name]) => name),
    ),
  ];
  const names = missing();
  if (names.length === 0) return [];
  if (debianPackagesCanBeInstalled()) {
    console.log(`Installing Debian packages: ${names.join(' ')} …`);
    // Its index of manual pages takes minutes to rebuild and nobody here reads it.
    rmSync('/var/lib/man-db/auto-update', { force: true });
    const env = { DEBIAN_FRONTEND: 'noninteractive' };
    run('apt-get', ['update', '-qq'], { quiet: true, env });
    const install = (list) =>
      run('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...list], { quiet: true, env });
    // One unknown name fails the whole call: then each by itself.
    if (install(names) !== 0) for (const name of names) install([name]);
  }
  return missing();
}

/** The version in package.json. */
export function version() {
  return JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).version;
}
