// `npm start`: sets everything up in a fresh clone, then shows the product at work on real disks.
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { buildWhenNeeded, installPackages, root } from './bootstrap.mjs';

installPackages();
buildWhenNeeded();
const child = spawn(process.execPath, [join(root, 'bin/cowherd.js'), 'demo', ...process.argv.slice(2)], {
  cwd: root,
  stdio: 'inherit',
});
// Ctrl-C reaches the child through the terminal; this process only waits for its clean end.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
child.on('exit', (code, signal) => process.exit(code ?? (signal ? 130 : 1)));
