import { open, readFile, writeFile } from 'node:fs/promises';
import { run, type TempDir } from '../support/programs.ts';
import { countsTooMuch, type Findings, type Verdict } from './judge.ts';
import { fileNames, type Recorded } from './session.ts';
import { pageSize, type SparseBytes } from './sparse-bytes.ts';

/**
 * What qemu-img says of a state: that it has at most leaks, and reads as the bytes that we found. A dirty image
 * (lazy refcounts) is repaired first, as QEMU does when it opens one for writing.
 */
export async function judgeByQemu(
  recorded: Recorded,
  files: readonly SparseBytes[],
  findings: Findings,
  folder: TempDir,
): Promise<Verdict> {
  const { scenario, disk } = recorded;
  const image = folder.file(fileNames.image);
  const out = folder.file('content');
  for (const [i, { name }] of disk.files.entries()) await writeSparse(folder.file(name), files[i]!);
  const options = { cwd: folder.path };
  if (scenario.format !== 'raw') {
    const repair = scenario.options.lazy_refcounts === true ? ['-r', 'all'] : [];
    const checked = await run('qemu-img', ['check', '-f', scenario.format, ...repair, image], options);
    const sound = checked.code === 0 || checked.code === 3;
    const onlyCounted = checked.stderr.split('\n').every((line) => line === '' || countsTooMuch(line));
    // 63: the format has nothing to check.
    if (!sound && checked.code !== 63 && !(checked.code === 2 && onlyCounted)) {
      return `qemu-img check: exit code ${checked.code}: ${checked.stdout}${checked.stderr}`.trim();
    }
  }
  const converted = await run(
    'qemu-img',
    ['convert', '-f', scenario.format, '-O', 'raw', image, out],
    options,
  );
  if (converted.code !== 0) return `qemu-img convert: ${converted.stderr}`.trim();
  const content = await readFile(out);
  if (Buffer.compare(content, findings.content) !== 0) {
    return `qemu-img reads byte ${content.findIndex((byte, i) => byte !== findings.content[i])} otherwise than we do`;
  }
  return undefined;
}

async function writeSparse(path: string, content: SparseBytes): Promise<void> {
  await writeFile(path, '');
  await using handle = await open(path, 'r+');
  await handle.truncate(content.size);
  const page = new Uint8Array(pageSize);
  for (let index = content.nextPage(0); index !== undefined; index = content.nextPage(index + 1)) {
    const at = index * pageSize;
    if (at >= content.size) break;
    content.read(at, page);
    await handle.write(page, 0, Math.min(pageSize, content.size - at), at);
  }
}
