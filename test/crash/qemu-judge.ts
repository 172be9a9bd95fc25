import { open, readFile, writeFile } from 'node:fs/promises';
import { run, type TempDir } from '../support/programs.ts';
import { abilitiesOf } from './abilities.ts';
import { countsTooMuch, type Findings, type Verdict } from './judge.ts';
import { fileNames, passphrase, type Recorded, type Scenario } from './session.ts';
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
  const out = folder.file('content');
  for (const [i, { name }] of disk.files.entries()) await writeSparse(folder.file(name), files[i]!);
  const options = { cwd: folder.path };
  const { opening = openingOf(scenario), log } = abilitiesOf(scenario.format);
  const repair = findings.dirty || log ? ['-r', 'all'] : [];
  const checked = await run('qemu-img', ['check', ...repair, ...opening], options);
  // 3: leaks; 63: the format has nothing to check.
  const onlyCounted = checked.stderr.split('\n').every((line) => line === '' || countsTooMuch(line));
  if (![0, 3, 63].includes(checked.code) && !(checked.code === 2 && onlyCounted)) {
    return `qemu-img check: exit code ${checked.code}: ${checked.stdout}${checked.stderr}`.trim();
  }
  const converted = await run('qemu-img', ['convert', '-O', 'raw', ...opening, out], options);
  if (converted.code !== 0) return `qemu-img convert: ${converted.stderr}`.trim();
  const content = await readFile(out);
  if (Buffer.compare(content, findings.content) !== 0) {
    return `qemu-img reads byte ${content.findIndex((byte, i) => byte !== findings.content[i])} otherwise than we do`;
  }
  return undefined;
}

/** Runtime options can be said as a list only. */
function openingOf({ format, layerOptions }: Scenario): readonly string[] {
  if (layerOptions === undefined) return ['-f', format, fileNames.image];
  const named = { driver: format, 'file.filename': fileNames.image, ...layerOptions };
  const list = Object.entries(named).map(([key, value]) => `${key}=${value}`);
  return ['--object', `secret,id=s,data=${passphrase}`, '--image-opts', list.join(',')];
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
