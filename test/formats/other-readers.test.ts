import { existsSync } from 'node:fs';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { bindLibdeflate } from '../../src/platform/libdeflate.ts';
import { pattern } from '../contract/model.ts';
import { dataWriteId, makeDifferencingVhdx, writeDifferencingVhd } from '../support/hyper-v-images.ts';
import { have, isRoot, mustRun, run, type TempDir, tempDir } from '../support/programs.ts';
import { cow, fileOf, type Kind, kinds, openKind, optionsOf, padded, qemuIsThere, shapes } from './kinds.ts';

/*
 * Readers that have nothing of QEMU: 7-Zip, and the libraries of libyal through the file systems that they mount.
 */

const MiB = 1 << 20;

let dir: TempDir;
beforeAll(async () => {
  dir = await tempDir('cowherd-readers-');
  for (const [index, { make }] of shapes.entries()) await writeFile(dir.file(`shape-${index}`), make());
});
afterAll(() => dir.remove());

const libdeflateIsThere = bindLibdeflate('deflate') !== undefined;
const canMount = isRoot && existsSync('/dev/fuse');
const kindNamed = (name: string): Kind => kinds.find((kind) => kind.name === name)!;

/** Our image of the first shape, written by conversion and changed here and there; and what it holds. */
async function ours(kind: Kind, name: string): Promise<void> {
  const path = dir.file(name);
  await cow('convert', '-f', 'raw', '-O', kind.format, ...optionsOf(kind), dir.file('shape-0'), path);
  let model = shapes[0].make();
  {
    await using image = await openKind(path, kind, true);
    model = padded(model, image.size);
    const change = async (at: number, data: Uint8Array) => {
      if (kind.stream) return;
      await image.write(at, data);
      model.set(data, at);
    };
    await change(3 * MiB + 5, pattern(70_000, 9));
    await change(71_000, pattern(5000, 10));
  }
  await writeFile(dir.file('model'), model);
}

/** Compares a file of the file system that `program` mounts. */
async function expectMounted(program: string, image: string, entry: string): Promise<void> {
  const script =
    `mkdir -p mnt && ${program} '${image}' mnt >log 2>&1 || { cat log; exit 9; }; ` +
    `cmp mnt/${entry} model; code=$?; umount mnt; exit $code`;
  const { code, stdout, stderr } = await run('sh', ['-c', script], { cwd: dir.path });
  expect([code, stdout, stderr], `${program} ${image}`).toEqual([0, '', '']);
}

describe.skipIf(!have('7zz'))('7-Zip reads ours', () => {
  it.each([
    ['qcow2', 'QCOW'],
    ['qcow', 'QCOW'],
    ['vmdk monolithicSparse', 'VMDK'],
    ['vmdk monolithicFlat', 'VMDK'],
    ['vmdk twoGbMaxExtentSparse', 'VMDK'],
    ['vmdk streamOptimized', 'VMDK'],
    ['vdi dynamic', 'VDI'],
    ['vdi static', 'VDI'],
    ['vpc dynamic', 'VHD'],
    ['vpc fixed', 'VHD'],
    ['vhdx dynamic', 'VHDX'],
    ['vhdx fixed', 'VHDX'],
  ])('%s', async (name, type) => {
    const kind = kindNamed(name);
    const file = fileOf('', kind, 'seven').replace(/img$/, type.toLowerCase());
    await ours(kind, file);
    const script = `7zz x -so -t${type} '${file}' >out && cmp out model`;
    const { code, stdout, stderr } = await run('sh', ['-c', script], { cwd: dir.path });
    expect([code, stdout], stderr).toEqual([0, '']);
  });
});

describe('compressed clusters that refer back by more than the 4 KiB of QEMU’s own', () => {
  // Of digits, so that it is worth packing, and each cluster twice the same half: what is 32,000 bytes before.
  const half = () => Buffer.from(crypto.getRandomValues(new Uint8Array(16_000))).toString('hex');
  const content = () =>
    Buffer.concat(
      Array.from({ length: 64 }, () => {
        const text = half();
        return Buffer.from((text + text).padEnd(65_536, text));
      }),
    );

  beforeAll(async () => {
    await writeFile(dir.file('model'), content());
    await cow('convert', '-c', '-f', 'raw', '-O', 'qcow2', dir.file('model'), dir.file('far.qcow2'));
    await cow('convert', '-c', '-f', 'raw', '-O', 'qcow', dir.file('model'), dir.file('far.qcow'));
    if (!libdeflateIsThere) return;
    // Each half alone takes half of its bytes at best: both of them were not packed apart.
    expect((await stat(dir.file('far.qcow2'))).size).toBeLessThan(64 * 65_536 * 0.4);
  });

  it.skipIf(!qemuIsThere)('are read by qemu-img', async () => {
    for (const format of ['qcow2', 'qcow']) {
      const image = dir.file(`far.${format}`);
      await mustRun('qemu-img', ['compare', '-f', 'raw', '-F', format, dir.file('model'), image]);
    }
  });

  it.skipIf(!have('7zz'))('are read by 7-Zip', async () => {
    const script = '7zz x -so -tqcow far.qcow2 >out && cmp out model';
    const { code, stdout, stderr } = await run('sh', ['-c', script], { cwd: dir.path });
    expect([code, stdout], stderr).toEqual([0, '']);
  });

  it.skipIf(!canMount || !have('qcowmount'))('are read by qcowmount', () =>
    expectMounted('qcowmount', 'far.qcow2', 'qcow1'),
  );
});

// libvmdk knows no monolithicFlat, which 7-Zip reads, nor 7-Zip a twoGbMaxExtentFlat.
describe.skipIf(!canMount)('libyal reads ours', () => {
  const mounts: readonly (readonly [string, string, string])[] = [
    ['qcow', 'qcowmount', 'qcow1'],
    ['qcow2', 'qcowmount', 'qcow1'],
    ['vmdk monolithicSparse', 'vmdkmount', 'vmdk1'],
    ['vmdk twoGbMaxExtentSparse', 'vmdkmount', 'vmdk1'],
    ['vmdk twoGbMaxExtentFlat', 'vmdkmount', 'vmdk1'],
    ['vmdk streamOptimized', 'vmdkmount', 'vmdk1'],
    ['vpc dynamic', 'vhdimount', 'vhdi1'],
    ['vpc fixed', 'vhdimount', 'vhdi1'],
    ['vhdx dynamic', 'vhdimount', 'vhdi1'],
    ['vhdx fixed', 'vhdimount', 'vhdi1'],
  ];
  for (const [name, program, entry] of mounts) {
    it.skipIf(!have(program))(`${name}, by ${program}`, async () => {
      const kind = kindNamed(name);
      const file = fileOf('', kind, 'yal').replace(/img$/, 'vmdk');
      await ours(kind, file);
      await expectMounted(program, file, entry);
    });
  }

  it.skipIf(!have('qcowmount'))('qcow2 version 2, by qcowmount', async () => {
    await ours({ name: 'qcow2', format: 'qcow2', options: 'compat=0.10' }, 'v2.qcow2');
    await expectMounted('qcowmount', 'v2.qcow2', 'qcow1');
  });

  describe.skipIf(!have('vhdimount') || !qemuIsThere)('a differencing chain, by vhdimount', () => {
    /** A parent with sevens, which we have written to, and what it holds. */
    async function parentOf(kind: Kind, name: string): Promise<Uint8Array> {
      const parent = dir.file(name);
      await mustRun('qemu-img', ['create', '-q', '-f', kind.format, ...optionsOf(kind), parent, '8M']);
      const model = new Uint8Array(8 * MiB);
      await using image = await openKind(parent, kind, true);
      model.fill(7, MiB, 3 * MiB);
      await image.write(MiB, model.subarray(MiB, 3 * MiB));
      return model;
    }

    /**
     * Writes into the child with our engine: new blocks, and blocks that it has in part, by eight sectors, since libvhdi
     * takes the last byte of a run in a VHD's bitmap whole.
     */
    async function change(kind: Kind, child: string, model: Uint8Array): Promise<void> {
      const before = await readFile(dir.file(`parent.${child.split('.')[1]}`));
      {
        await using image = await openKind(dir.file(child), kind, true);
        for (const [at, length] of [
          [MiB + 4096, 12288],
          [2 * MiB - 4096, 8192],
          [5 * MiB + 4096, 4096],
          [7 * MiB, MiB],
        ] as const) {
          const data = pattern(length, at);
          await image.write(at, data);
          model.set(data, at);
        }
      }
      const after = await readFile(dir.file(`parent.${child.split('.')[1]}`));
      expect(after.equals(before), 'the parent is left alone').toBe(true);
      await writeFile(dir.file('model'), model);
    }

    it.each([
      ['vpc dynamic', 'vhd'],
      ['vhdx dynamic', 'vhdx'],
    ])('of %s, made by us, before and after a commit', async (name, ending) => {
      const kind = kindNamed(name);
      const parent = `parent.${ending}`;
      const model = await parentOf(kind, parent);
      for (const [child, reference] of [
        [`child.${ending}`, parent],
        [`other.${ending}`, dir.file(parent)],
      ] as const) {
        const format = kind.format;
        await cow('create', '-q', '-f', format, '-b', reference, '-F', format, dir.file(child));
        const holds = model.slice();
        // A chunk of a VHDX in which nothing is written yet is one of which libvhdi reads garbage.
        await change(kind, child, holds);
        await expectMounted('vhdimount', child, 'vhdi2');
      }
      await cow('commit', '-q', '-f', kind.format, dir.file(`child.${ending}`));
      await expectMounted('vhdimount', `child.${ending}`, 'vhdi2');
      await mustRun('qemu-img', ['compare', '-F', kind.format, dir.file('model'), dir.file(parent)]);
      await using child = await openKind(dir.file(`child.${ending}`), kind);
      const content = new Uint8Array(child.size);
      await child.read(0, content);
      expect(Buffer.from(content).equals(await readFile(dir.file('model')))).toBe(true);
    });

    it('of VHD', async () => {
      const kind = kindNamed('vpc dynamic');
      const model = await parentOf(kind, 'parent.vhd');
      const own = { block: 3, from: 0, bytes: new Uint8Array(512).fill(8) };
      model.set(own.bytes, 6 * MiB);
      const locators = [{ platform: 'W2ru', path: '.\\parent.vhd' }] as const;
      await writeDifferencingVhd(
        dir.file('child.vhd'),
        dir.file('parent.vhd'),
        locators,
        [own],
        'parent.vhd',
      );
      await change(kind, 'child.vhd', model);
      await expectMounted('vhdimount', 'child.vhd', 'vhdi2');
    });

    it('of VHDX', async () => {
      const kind: Kind = { name: '', format: 'vhdx', options: 'block_size=1M,block_state_zero=off' };
      const model = await parentOf(kind, 'parent.vhdx');
      const child = dir.file('child.vhdx');
      await mustRun('qemu-img', ['create', '-q', '-f', 'vhdx', ...optionsOf(kind), child, '8M']);
      const own = { block: 1, from: 8, bytes: new Uint8Array(1024).fill(9) };
      model.set(own.bytes, MiB + 4096);
      const parent_linkage = await dataWriteId(dir.file('parent.vhdx'));
      const locator = {
        parent_linkage,
        relative_path: '.\\parent.vhdx',
        absolute_win32_path: 'C:\\parent.vhdx',
      };
      await makeDifferencingVhdx(child, locator, [own]);
      await change(kind, 'child.vhdx', model);
      await expectMounted('vhdimount', 'child.vhdx', 'vhdi2');
    });
  });
});
