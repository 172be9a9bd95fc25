import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { allDifferences, differences } from './differences.ts';
import { normalisations } from './normalise.ts';

const page = join(import.meta.dirname, '../../docs/differences.md');

/** The list as a page. */
function text(): string {
  const cell = (words: string) => words.replaceAll('|', '\\|');
  const rows = differences.map(
    ({ what, qemuImg, cowImg, reason }) => `| ${[what, qemuImg, cowImg, reason].map(cell).join(' | ')} |`,
  );
  return `# Where cow-img differs from qemu-img

cow-img answers as the qemu-img of QEMU 7.2 does: output, error texts, exit codes and the files that it writes. The
tests in \`test/differential/\` run the same command lines through both and compare the answers to the letter. They
name an entry of this table for each line whose answer differs, and fail where one differs without, or where a
difference named here is gone. The tables hold more than 4,700 command lines (\`count.test.ts\` counts them); random sequences
and the program itself are compared besides, and QEMU's own test suite runs with cow-img in place of qemu-img
(\`scripts/qemu-tests.mjs\`).

| what | qemu-img 7.2 | cow-img | why |
| --- | --- | --- | --- |
${rows.join('\n')}

Options of cow-img that qemu-img does not have: \`--corrupt-dependents\` (create, resize, convert, check -r) writes to an
image although others are known to be laid over it. \`--untrusted\` (every command) refuses what an image may not name
when it comes from a stranger, and \`cowherd inspect\` says what it names. \`check --for azure\` says whether Azure would take the
image (a fixed VHD of whole MiB), and what to do where not. \`convert --decompress\` reads sources
that are packed by gzip, xz, zstd or bzip2, which qemu-img would copy as they are.

Before answers are compared, this is changed in both of them, and nothing else:

${normalisations.map(({ reason }) => `- ${reason}`).join('\n')}

Images are equal byte for byte, except after lines marked \`contents\`: there the clusters may lie elsewhere in the file,
and qemu-img's compare, check and info say that they are equal.

This page is made from \`test/differential/differences.ts\`: \`UPDATE_DOCS=1 npx vitest run test/differential/differences.test.ts\`.
`;
}

it('docs/differences.md says what the tests know', () => {
  if (process.env.UPDATE_DOCS === '1') writeFileSync(page, text());
  expect(readFileSync(page, 'utf8')).toBe(text());
});

it('each difference is named by a line that shows it', () => {
  const sources = readdirSync(import.meta.dirname, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.test.ts'))
    .map((name) => readFileSync(join(import.meta.dirname, name), 'utf8'))
    .join('\n');
  const unshown = allDifferences.filter(
    ({ id, shown }) => shown === undefined && !new RegExp(`(differs|Differ): '${id}'`).test(sources),
  );
  expect(unshown.map(({ id }) => id)).toEqual([]);
});

it('each difference has its own name', () => {
  expect(new Set(differences.map(({ id }) => id)).size).toBe(differences.length);
});
