// `node code-cache.cjs FOLDER NAME [ARGUMENTS [-- ARGUMENTS]…]`: runs a bundled program so, and keeps what V8 compiled of it meanwhile.
'use strict';
const { writeFileSync } = require('node:fs');
const { join } = require('node:path');

const [folder, name, ...rest] = process.argv.slice(2);
const { codeOf, compile } = require(join(folder, 'launch.cjs'));
const bundle = join(folder, `${name}.bundle.cjs`);
const { exports: program, script } = compile(bundle);

const calls = [[]];
for (const argument of rest) {
  if (argument === '--') calls.push([]);
  else calls.at(-1).push(argument);
}
(async () => {
  process.stdout.write = () => true;
  for (const call of calls) {
    const code = await program.main(call);
    if (code !== 0) throw new Error(`${name} ${call.join(' ')}: exit code ${code}`);
  }
  writeFileSync(codeOf(bundle), script.createCachedData());
  process.exit(0);
})();
