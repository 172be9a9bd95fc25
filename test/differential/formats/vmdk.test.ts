import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { mustRun } from '../../support/programs.ts';
import { formatLines } from '../format-lines.ts';

const subformats = ['monolithicFlat', 'twoGbMaxExtentSparse', 'twoGbMaxExtentFlat', 'streamOptimized'];

formatLines({
  name: 'vmdk',
  options: ['zeroed_grain=on', 'adapter_type=lsilogic,hwversion=7', 'compat6=on,toolsversion=12'],
  wrong: [
    'subformat=nonesuch',
    'adapter_type=scsi',
    'compat6=on,hwversion=5',
    'subformat=monolithicFlat,zeroed_grain=on',
    'cluster_size=4k',
  ],
  files: 'contents',
  // QEMU cannot open its own images of no bytes.
  sizes: ['1', '512', '1000', '64k', '1M', '2000000', '3G', '1T'],
  volatile: ['cid', 'parent-cid'],
  packs: true,
  async more(directory) {
    for (const subformat of subformats) {
      const folder = join(directory, subformat);
      await mkdir(folder);
      await mustRun(
        'qemu-img',
        ['convert', '-O', 'vmdk', '-o', `subformat=${subformat}`, '../../raw.img', 'i.vmdk'],
        {
          cwd: folder,
        },
      );
    }
    await mustRun('qemu-img', ['create', '-q', '-f', 'vmdk', '-F', 'vmdk', '-b', 'plain', 'child'], {
      cwd: directory,
    });
    await writeFile(
      join(directory, 'odd'),
      '# Disk DescriptorFile\r\nversion=1\r\nCID=123\r\nparentCID=ffffffff\r\ncreateType="monolithicFlat"\r\n' +
        '# Extents\r\n  RW   2048   FLAT "../raw.img"   0\r\n',
    );
  },
  reading: [
    ...subformats.flatMap((name) => [
      `info d/${name}/i.vmdk`,
      `info --output json d/${name}/i.vmdk`,
      `map --output json d/${name}/i.vmdk`,
      `check d/${name}/i.vmdk`,
      `compare -F vmdk raw.img d/${name}/i.vmdk`,
    ]),
    'info d/child',
    'info --backing-chain d/child',
    'map d/child',
    'compare d/child d/plain',
    'info d/odd',
    'map --output json d/odd',
    'compare raw.img d/odd',
  ],
  writing: [
    'resize IMG(plain) 4M',
    'create -f vmdk -b plain -F raw d/new',
    'create -f vmdk -o subformat=monolithicFlat -b plain -F vmdk d/new',
    ...subformats.slice(1).map((name) => ({
      line: `convert -c -O vmdk -o subformat=${name} raw.img d/new.vmdk`,
      files: 'contents' as const,
      ...(name.endsWith('Flat') ? { filesDiffer: 'failed-create' as const } : {}),
    })),
    {
      line: 'convert -c -O vmdk -o subformat=monolithicFlat raw.img d/new.vmdk',
      filesDiffer: 'failed-create' as const,
    },
    // Into a stream once more is refused (src/formats/vmdk/stream.test.ts).
    ...subformats.slice(0, 3).map((name) => `convert -n -O vmdk full.img d/${name}/i.vmdk`),
  ],
});
