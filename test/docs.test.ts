import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const folders = ['bench', 'bin', 'contrib', 'docs', 'examples', 'schema', 'scripts', 'src', 'test'];
const pages = [
  'README.md',
  'CONTRIBUTING.md',
  ...readdirSync(join(root, 'docs')).map((name) => `docs/${name}`),
];

const files = folders.flatMap((folder) =>
  readdirSync(join(root, folder), { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath, entry.name))),
);

/** What a page says in `code`, outside of its blocks. */
function codeIn(text: string): string[] {
  return [...text.replace(/^```[\s\S]*?^```/gm, '').matchAll(/`([^`\n]+)`/g)].map(([, code]) => code);
}

/** The files that a name in a page may mean: a whole path, or the end of one; `*` stands for anything. */
function meant(name: string): string[] {
  const pattern = name.replace(/[.+?^${}()|[\]\\]/g, '\\$&').replace(/\*/g, '[^/]*');
  const end = new RegExp(`(^|/)${pattern}$`);
  return files.filter((path) => end.test(path));
}

/** The anchors that a page's headings have, as GitHub makes them. */
function anchorsOf(text: string): string[] {
  return [...text.matchAll(/^#+ (.*)$/gm)].map(([, title]) =>
    title
      .toLowerCase()
      .replace(/[^\p{L}\p{N} -]/gu, '')
      .replaceAll(' ', '-'),
  );
}

describe.each(pages)('%s', (page) => {
  const text = readFileSync(join(root, page), 'utf8');

  it('names source files that exist, each so that only one is meant', () => {
    const named = codeIn(text).filter((code) => /^[\w*./-]+\.(ts|mjs|cjs)$/.test(code));
    const wrong = named
      .map((name) => [name, meant(name)] as const)
      .filter(([name, found]) => (name.includes('*') ? found.length === 0 : found.length !== 1));
    expect(wrong).toEqual([]);
  });

  it('names folders that exist', () => {
    const named = codeIn(text).filter((code) => new RegExp(`^(${folders.join('|')})/[\\w./-]*$`).test(code));
    // Names of results stand for the table, the figures and the chart of one run.
    const isThere = (name: string) => existsSync(join(root, name)) || existsSync(join(root, `${name}.txt`));
    expect(named.filter((name) => !isThere(name))).toEqual([]);
  });

  it('links to what is there', () => {
    const wrong = [...text.matchAll(/\]\(([^)\s]+)\)/g)]
      .map(([, link]) => link)
      .filter((link) => !/^[a-z]+:/.test(link))
      .filter((link) => {
        const [path, anchor] = link.split('#');
        const target = path === '' ? join(root, page) : join(root, dirname(page), path);
        if (!existsSync(target)) return true;
        return anchor !== undefined && !anchorsOf(readFileSync(target, 'utf8')).includes(anchor);
      });
    expect(wrong).toEqual([]);
  });
});

describe('docs/architecture.md', () => {
  it('has a room for each folder of sources', () => {
    const text = readFileSync(join(root, 'docs/architecture.md'), 'utf8');
    const holding = files.filter((path) => path.startsWith('src/')).map((path) => `${dirname(path)}/`);
    expect(
      [...new Set(holding)].filter((folder) => folder !== 'src/' && !text.includes(`\`${folder}\``)),
    ).toEqual([]);
  });
});
