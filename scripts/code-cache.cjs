// `node code-cache.cjs FOLDER NAME COMMAND ARGUMENTS [-- ARGUMENTS]…`: runs a bundled program so, and keeps what V8 compiled of it meanwhile
// for a start with COMMAND.
// `node code-cache.cjs FOLDER NAME --thread`: the same for the code of cow-nbd's threads, which opens an image.
'use strict';
const { truncateSync, writeFileSync } = require('node:fs');
const { join } = require('node:path');
const { isMainThread, Worker, workerData } = require('node:worker_threads');

const [folder, name, command, ...rest] = workerData ?? process.argv.slice(2);
const { anyCommand, codeOf, compile, sourceOf } = require(join(folder, 'launch.cjs'));

const source = sourceOf(name);
const keep = (script, of) => writeFileSync(codeOf(name, of, source), script.createCachedData());

if (!isMainThread) {
  const { script } = compile(name, source);
  process.on('exit', () => keep(script, anyCommand));
} else if (command === '--thread') {
  const thread = new Worker(__filename, { workerData: [folder, name], trackUnmanagedFds: false });
  writeFileSync('disk', '');
  truncateSync('disk', 1 << 20);
  const recipe = { name: '', filename: 'disk', format: 'raw', readOnly: true, program: name };
  thread.postMessage({ kind: 'open', recipe, again: false });
  thread.on('message', (message) => {
    if (message.kind === 'opened') thread.postMessage({ kind: 'finish' });
    else if (message.kind === 'failed' || message.failure)
      throw new Error(message.message ?? message.failure);
  });
} else {
  const { exports: program, script } = compile(name, source);
  const calls = [[]];
  for (const argument of rest) {
    if (argument === '--') calls.push([]);
    else calls.at(-1).push(argument);
  }
  (async () => {
    for (const call of calls) {
      const code = await program.main(call);
      if (code !== 0) throw new Error(`${name} ${call.join(' ')}: exit code ${code}`);
    }
    keep(script, command);
    process.exit(0);
  })();
}
