// Starts a bundled program with the code that V8 compiled for it when it was built: that takes the time to its first line to a third.
// Copied beside the bundles by scripts/build.mjs.
'use strict';
const { readFileSync } = require('node:fs');
const nodeModule = require('node:module');
const { join } = require('node:path');
const { constants, Script } = require('node:vm');

/**
 * Where the code is kept that was compiled of a bundle's `source` for a command. V8 takes it only in the version that made it, but for
 * any source of the same length: code of an earlier build would run in place of what is there.
 */
const codeOf = (name, command, source) =>
  join(__dirname, `${name}.${command}.${buildOf(source)}.${process.version}-${process.arch}.code`);

/** What a bundle begins with, and no other has (scripts/bundle.mjs). */
const buildOf = (source) => /^\/\/ ([0-9a-f]+)\n/.exec(source)?.[1];

/** What has no code of its own: that of the program's `--version`, or of a thread. */
const anyCommand = 'any';

const bundleOf = (name) => join(__dirname, `${name}.bundle.cjs`);

const sourceOf = (name) => readFileSync(bundleOf(name), 'latin1');

function codeFor(name, command, source) {
  // A command is a word; what else stands first may be the path of anything.
  for (const one of /^[a-z-]+$/.test(command) ? [command, anyCommand] : [anyCommand]) {
    try {
      return readFileSync(codeOf(name, one, source));
    } catch {
      // Not among those that were run at the build.
    }
  }
  return undefined;
}

/** Loads a bundle; `main` is its program. `command` is what it will be told to do. */
function load(name, command) {
  const source = sourceOf(name);
  const cachedData = codeFor(name, command, source);
  if (cachedData) return compile(name, source, cachedData).exports;
  // Built by another version of Node: compiled anew, or kept by Node itself where it can (22 and newer).
  nodeModule.enableCompileCache?.();
  return require(bundleOf(name));
}

/** A bundle comes to a function as it stands (scripts/bundle.mjs): text that is put together would be copied once more. */
function compile(name, source, cachedData) {
  const bundle = bundleOf(name);
  const script = new Script(source, {
    filename: bundle,
    cachedData,
    importModuleDynamically: constants?.USE_MAIN_CONTEXT_DEFAULT_LOADER ?? ((name) => import(name)),
  });
  const module = { exports: {} };
  const own = nodeModule.createRequire(bundle);
  script.runInThisContext().call(module.exports, module.exports, own, module, bundle, __dirname);
  return { exports: module.exports, script };
}

/** Runs the code of a worker thread. */
function runThread(name) {
  load(name, anyCommand);
}

/** Runs the program with the arguments of this process. */
async function run(name) {
  const args = process.argv.slice(2);
  const program = load(name, args[0] ?? anyCommand);
  process.exitCode = await program.main(args);
  // In a turn of its own: the callback that the program ended in would count as something to wait for.
  setImmediate(() => program.leave?.(process.exitCode));
}

module.exports = { anyCommand, codeOf, compile, run, runThread, sourceOf };
