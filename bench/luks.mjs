// raw to luks and back: cow-img against qemu-img, in pairs. `node bench/luks.mjs [MIB] [ROUNDS]`; needs `npm run build`.
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { closeSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { paired } from './paired.mjs';

const mebibytes = Number(process.argv[2] ?? 2048);
const rounds = Number(process.argv[3] ?? 5);
const folder = mkdtempSync(join(tmpdir(), 'cowherd-bench-luks-'));
const file = (name) => join(folder, name);
const program = fileURLToPath(new URL('../bin/cow-img.js', import.meta.url));
const secret = ['--object', 'secret,id=s,data=correct horse'];

function run(command, args) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'inherit'] });
    child.on('error', reject);
    child.on('close', (code) =>
      code === 0 ? resolve() : reject(new Error(`${command}: exit code ${code}`)),
    );
  });
}
const ours = (...args) => run(process.execPath, [program, ...args]);
const theirs = (...args) => run('qemu-img', args);

const options = ['-o', 'key-secret=s,iter-time=100'];
const encrypt = (to) => [
  'convert',
  ...secret,
  '-f',
  'raw',
  '-O',
  'luks',
  ...options,
  file('plain'),
  file(to),
];
const named = (name) => `driver=luks,file.filename=${file(name)},key-secret=s`;
const decrypt = (to) => ['convert', ...secret, '--image-opts', named('luks'), '-O', 'raw', file(to)];
const remove = (name) => () => rmSync(file(name), { force: true });

try {
  const fd = openSync(file('plain'), 'w');
  for (let done = 0; done < mebibytes; done++) writeSync(fd, randomBytes(1 << 20));
  closeSync(fd);
  await theirs(...encrypt('luks'));
  const same = (name) => () =>
    theirs('compare', ...secret, '--image-opts', named(name), `driver=raw,file.filename=${file('plain')}`);
  const report = {
    'raw to luks': await paired(
      { prepare: remove('a'), run: () => ours(...encrypt('a')), verify: same('a') },
      { prepare: remove('b'), run: () => theirs(...encrypt('b')) },
      { rounds },
    ),
    'luks to raw': await paired(
      {
        prepare: remove('c'),
        run: () => ours(...decrypt('c')),
        verify: () => run('cmp', [file('c'), file('plain')]),
      },
      { prepare: remove('d'), run: () => theirs(...decrypt('d')) },
      { rounds },
    ),
  };
  console.log(JSON.stringify({ mebibytes, rounds, report }, null, 2));
} finally {
  rmSync(folder, { recursive: true });
}
