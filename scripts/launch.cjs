// Starts a bundled program with the code that V8 compiled for it when it was built: that halves the time to its first line.
// Copied beside the bundles by scripts/build.mjs.
'use strict';
const { readFileSync } = require('node:fs');
const nodeModule = require('node:module');
const { join } = require('node:path');
const { constants, Script } = require('node:vm');

/** Where the compiled code of a bundle is kept. V8 takes it only in the version that made it. */
const codeOf = (bundle) => `${bundle}.${process.version}-${process.arch}.code`;

/** Loads a bundle; `main` is its program, and `script` what it was compiled to. */
function load(name) {
  const bundle = join(__dirname, `${name}.bundle.cjs`);
  let cachedData;
  try {
    cachedData = readFileSync(codeOf(bundle));
  } catch {
    // Built by another version of Node: compiled anew, or kept by Node itself where it can (22 and newer).
    nodeModule.enableCompileCache?.();
    return require(bundle);
  }
  return compile(bundle, cachedData).exports;
}

/** A bundle comes to a function as it stands (scripts/build.mjs): text that is put together would be copied once more. */
function compile(bundle, cachedData) {
  const script = new Script(readFileSync(bundle, 'latin1'), {
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
  load(name);
}

/** Runs the program with the arguments of this process. */
async function run(name) {
  const program = load(name);
  process.exitCode = await program.main(process.argv.slice(2));
  // In a turn of its own: the callback that the program ended in would count as something to wait for.
  setImmediate(() => program.leave?.(process.exitCode));
}

module.exports = { codeOf, compile, run, runThread };
