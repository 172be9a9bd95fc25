import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { parseLab } from '../src/lab/spec/load.ts';
import { have, run, tempDir } from './support/programs.ts';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const readme = readFileSync(join(root, 'README.md'), 'utf8');

/** The code blocks of one language, in order. */
function blocks(language: string): string[] {
  return [...readme.matchAll(new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\``, 'gm'))].map(
    ([, text]) => text,
  );
}

describe('the README', () => {
  it('has library examples that work, against the built package', async () => {
    const [files, blobs, http, ...others] = blocks('ts');
    expect(others).toEqual([]);
    await using scratch = await tempDir();
    const folder = scratch.path;
    mkdirSync(join(folder, 'node_modules'));
    symlinkSync(root, join(folder, 'node_modules/cowherd'));
    writeFileSync(join(folder, 'files.mjs'), files);
    const load = `import { readFile } from 'node:fs/promises';\nconst loadBytes = readFile;\n`;
    writeFileSync(join(folder, 'blobs.mjs'), load + blobs);
    const node = (script: string) =>
      execFileSync(process.execPath, [script], { cwd: folder, encoding: 'utf8' });

    expect(node('files.mjs').trimEnd().split('\n')).toEqual([
      '0 65536 data layer 0',
      '65536 1073676288 hole layer 1',
    ]);
    expect(node('blobs.mjs')).toBe('only in the overlay\n');
    const serve = `import { createServer } from 'node:http';
      import { readFileSync } from 'node:fs';
      const server = createServer((request, response) => {
        const file = readFileSync('master.qcow2');
        const [first, last] = request.headers.range.match(/\\d+/g).map(Number);
        const end = Math.min(last, file.length - 1);
        response.writeHead(206, { 'content-range': 'bytes ' + first + '-' + end + '/' + file.length });
        response.end(file.subarray(first, end + 1));
      });
      await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
      const url = 'http://127.0.0.1:' + server.address().port;`;
    writeFileSync(
      join(folder, 'http.mjs'),
      `${serve}\n${http}\nserver.close();\nserver.closeAllConnections();\n`,
    );
    expect(node('http.mjs')).toBe('true\n');
    if (have('qemu-img'))
      expect((await run('qemu-img', ['check', 'seat.qcow2'], { cwd: folder })).code).toBe(0);
  });

  it('links to what is in the package only', () => {
    const { files } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { files: string[] };
    const links = [...readme.matchAll(/\]\((?!https?:|#)([^)#]+)/g)].map(([, link]) => link);
    expect(links.length).toBeGreaterThan(5);
    expect(links.filter((link) => !files.includes(link.split('/')[0]))).toEqual([]);
  });

  it('has lab files that are valid', () => {
    const labs = blocks('yaml');
    expect(labs.length).toBe(4);
    for (const text of labs)
      expect(parseLab(text, { name: 'lab.yaml', file: '/lab.yaml' }).name).toBe('networking-101');
  });

  it('names every command and verb that there is, and no other', async () => {
    const commands = /\| cowherd \| (.*) \|/.exec(readme)![1].match(/[\w-]+/g)!;
    const help = execFileSync(process.execPath, [join(root, 'bin/cowherd.js'), '--help'], {
      encoding: 'utf8',
    });
    const listed = [
      ...help.slice(help.indexOf('Commands:'), help.indexOf('A lab file')).matchAll(/^ {2}([a-z][\w-]*)/gm),
    ].map(([, name]) => name);
    expect(commands.sort()).toEqual(listed.filter((name) => name !== 'help').sort());

    const verbs = /\| cow-img \| (.*?);/.exec(readme)![1].match(/[\w-]+/g)!;
    const table = readFileSync(join(root, 'src/cli/cow-img.ts'), 'utf8');
    expect(verbs.sort()).toEqual(
      [...table.matchAll(/import\('\.\/verbs\/([\w-]+)\.ts'\)/g)].map(([, name]) => name).sort(),
    );
  });
});
