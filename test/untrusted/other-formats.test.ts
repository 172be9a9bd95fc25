import { readFile, symlink, writeFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { openImageFile } from '../../src/node.ts';
import { libc } from '../../src/platform/libc.ts';
import {
  dataWriteId,
  makeDifferencingVhdx,
  patchFile,
  writeDifferencingVhd,
} from '../support/hyper-v-images.ts';
import { have, mustRun } from '../support/programs.ts';
import { Inbox } from './inbox.ts';
import { strayed, takeOpened } from './opened.ts';

/*
 * As hazards.test.ts, for all other formats that name files: each is refused by the name that its header has, and what
 * it leads to is not even opened. Every open of this process is recorded.
 */

vi.mock('node:fs', async (original) => (await import('./opened.ts')).recordOpens(await original()));

let box: Inbox;

interface Hazard {
  make(name: string): Promise<void>;
  readonly reference: string;
  /** What is said instead of "outside its own directory". */
  readonly says?: string;
  readonly role?: 'backing file' | 'extent';
  /** Only where nothing has an earlier name. */
  readonly fallback?: boolean;
}

const qemuImg = (...line: string[]) => mustRun('qemu-img', line, { cwd: box.path });

/** A descriptor alone, by the letter of VMware's specification. */
const descriptor =
  (createType: string, extents: readonly string[], parent?: string) => async (name: string) =>
    writeFile(
      box.file(name),
      `# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=${parent === undefined ? 'ffffffff' : '12345678'}\n` +
        `createType="${createType}"\n${parent === undefined ? '' : `parentFileNameHint="${parent}"\n`}\n` +
        `# Extent description\n${extents.join('\n')}\n\n# The Disk Data Base\nddb.adapterType = "ide"\n`,
    );

/** A sparse VMDK of qemu-img's with another parent in its embedded descriptor. */
const childOf = (parent: string) => async (name: string) => {
  await qemuImg('create', '-q', '-f', 'vmdk', '-b', 'parent.vmdk', '-F', 'vmdk', name);
  const bytes = await readFile(box.file(name));
  const at = bytes.indexOf('parentFileNameHint=');
  const end = bytes.indexOf('\n', at);
  const rest = bytes.subarray(end, 20 * 512 + 512);
  await patchFile(box.file(name), at, Buffer.concat([Buffer.from(`parentFileNameHint="${parent}"`), rest]));
};

const vhd =
  (locators: Parameters<typeof writeDifferencingVhd>[2], parentName = '') =>
  (name: string) =>
    writeDifferencingVhd(box.file(name), box.file('parent.vhd'), locators, [], parentName);

const vhdx = (locator: Record<string, string>) => async (name: string) => {
  await qemuImg('create', '-q', '-f', 'vhdx', '-o', 'block_size=1M,block_state_zero=off', name, '8M');
  const id = await dataWriteId(box.file('parent.vhdx'));
  await makeDifferencingVhdx(box.file(name), { parent_linkage: id, ...locator }, []);
};

const parentUuid = '0123456789abcdef0123456789abcdef';
/** A differencing VDI: image type 4, and the parent's UUID, whose first three fields are little-endian. */
const vdi = async (name: string) => {
  await qemuImg('create', '-q', '-f', 'vdi', name, '4M');
  await patchFile(box.file(name), 0x4c, Uint8Array.of(4));
  await patchFile(box.file(name), 0x1a8, Buffer.from(parentUuid, 'hex'));
};

const backed = (format: string, backing: string) => async (name: string) => {
  await qemuImg('create', '-q', '-u', '-f', format, '-b', backing, '-F', 'raw', name, '1M');
};

const noFile = 'which is no plain file';
const flat = (name: string) => `RW 128 FLAT "${name}" 0`;
const near = flat('near-flat.vmdk');

const hazards: Readonly<Record<string, Hazard>> = {
  'flat-up.vmdk': {
    make: descriptor('monolithicFlat', [flat('../secret.raw')]),
    reference: '../secret.raw',
    role: 'extent',
  },
  'flat-shadow.vmdk': {
    make: descriptor('monolithicFlat', [flat('/etc/shadow')]),
    reference: '/etc/shadow',
    role: 'extent',
  },
  'flat-second.vmdk': {
    make: descriptor('twoGbMaxExtentFlat', [near, flat('below/../../secret.raw')]),
    reference: 'below/../../secret.raw',
    role: 'extent',
  },
  'flat-prefix.vmdk': {
    make: descriptor('monolithicFlat', [flat('file:../secret.raw')]),
    reference: 'file:../secret.raw',
    role: 'extent',
  },
  'flat-link.vmdk': {
    make: descriptor('monolithicFlat', [flat('way-out')]),
    reference: 'way-out',
    role: 'extent',
  },
  'flat-nbd.vmdk': {
    make: descriptor('monolithicFlat', [flat('nbd://127.0.0.1:1/x')]),
    reference: 'nbd://127.0.0.1:1/x',
    says: noFile,
    role: 'extent',
  },
  'flat-json.vmdk': {
    make: descriptor('monolithicFlat', [flat("json:{'driver':'file','filename':'/etc/shadow'}")]),
    reference: "json:{'driver':'file','filename':'/etc/shadow'}",
    says: noFile,
    role: 'extent',
  },
  'vmfs.vmdk': {
    make: descriptor('vmfs', ['RW 128 VMFS "/etc/shadow"']),
    reference: '/etc/shadow',
    role: 'extent',
  },
  'readonly.vmdk': {
    make: descriptor('custom', ['RDONLY 128 FLAT "/etc/shadow" 0']),
    reference: '/etc/shadow',
    role: 'extent',
  },
  'sparse.vmdk': {
    make: descriptor('twoGbMaxExtentSparse', ['RW 128 SPARSE "../secret.vmdk"']),
    reference: '../secret.vmdk',
    role: 'extent',
  },
  'sesparse.vmdk': {
    make: descriptor('seSparse', ['RDONLY 128 SESPARSE "/etc/shadow"']),
    reference: '/etc/shadow',
    role: 'extent',
  },
  'parent-shadow.vmdk': { make: childOf('/etc/shadow'), reference: '/etc/shadow' },
  'parent-up.vmdk': { make: childOf('../secret.vmdk'), reference: '../secret.vmdk' },
  'parent-http.vmdk': {
    make: childOf('http://127.0.0.1:1/x'),
    reference: 'http://127.0.0.1:1/x',
    says: noFile,
  },
  'parent-flat.vmdk': {
    make: descriptor('monolithicFlat', [near], '../secret.vmdk'),
    reference: '../secret.vmdk',
  },
  'relative.vhd': {
    make: vhd([{ platform: 'W2ru', path: '..\\secret.vhd' }]),
    reference: '../secret.vhd',
  },
  'absolute.vhd': {
    make: vhd([{ platform: 'W2ku', path: '\\etc\\shadow' }]),
    reference: '/etc/shadow',
  },
  'mac.vhd': {
    make: vhd([{ platform: 'MacX', path: 'file:///etc/%73hadow' }]),
    reference: '/etc/shadow',
  },
  'name.vhd': { make: vhd([], '/etc/shadow'), reference: '/etc/shadow' },
  'second.vhd': {
    make: vhd([
      { platform: 'W2ru', path: '.\\gone.vhd' },
      { platform: 'W2ku', path: '\\etc\\shadow' },
    ]),
    reference: '/etc/shadow',
    fallback: true,
  },
  'relative.vhdx': { make: vhdx({ relative_path: '..\\secret.vhdx' }), reference: '../secret.vhdx' },
  'absolute.vhdx': { make: vhdx({ absolute_win32_path: '\\etc\\shadow' }), reference: '/etc/shadow' },
  'volume.vhdx': { make: vhdx({ volume_path: '/etc/shadow' }), reference: '/etc/shadow' },
  'second.vhdx': {
    make: vhdx({ relative_path: '.\\gone.vhdx', absolute_win32_path: '/etc/shadow' }),
    reference: '/etc/shadow',
    fallback: true,
  },
  'child.vdi': { make: vdi, reference: '{67452301-ab89-efcd-0123-456789abcdef}.vdi' },
  'up.qcow': { make: backed('qcow', '../secret.raw'), reference: '../secret.raw' },
  'shadow.qcow': { make: backed('qcow', '/etc/shadow'), reference: '/etc/shadow' },
  'nbd.qcow': { make: backed('qcow', 'nbd:127.0.0.1:1'), reference: 'nbd:127.0.0.1:1', says: noFile },
  'up.qed': { make: backed('qed', '../secret.raw'), reference: '../secret.raw' },
  'shadow.qed': { make: backed('qed', '/etc/shadow'), reference: '/etc/shadow' },
  'json.qed': {
    make: backed('qed', 'json:{"driver":"raw","file.filename":"/etc/shadow"}'),
    reference: 'json:{"driver":"raw","file.filename":"/etc/shadow"}',
    says: noFile,
  },
};

beforeAll(async () => {
  if (!have('qemu-img')) return;
  // Looks into the program's own file, once.
  libc();
  box = await Inbox.make();
  await writeFile(box.dir.file('secret.raw'), new Uint8Array(65536).fill(0x73));
  await writeFile(box.file('near-flat.vmdk'), new Uint8Array(65536).fill(0x69));
  await symlink('../secret.raw', box.file('way-out'));
  for (const [format, name] of [
    ['vmdk', 'parent.vmdk'],
    ['vpc', 'parent.vhd'],
    ['vmdk', '../secret.vmdk'],
    ['vpc', '../secret.vhd'],
    ['vdi', '../secret.vdi'],
  ]) {
    await qemuImg('create', '-q', '-f', format, name, '4M');
  }
  for (const name of ['parent.vhdx', '../secret.vhdx']) {
    await qemuImg('create', '-q', '-f', 'vhdx', '-o', 'block_size=1M,block_state_zero=off', name, '8M');
  }
  await symlink('../secret.vdi', box.file('{67452301-ab89-efcd-0123-456789abcdef}.vdi'));
  for (const [name, { make }] of Object.entries(hazards)) await make(name);
});

afterAll(async () => {
  await box?.[Symbol.asyncDispose]();
});

beforeEach(() => {
  takeOpened();
});

describe.skipIf(!have('qemu-img'))('an image of another format from a stranger', () => {
  for (const [name, hazard] of Object.entries(hazards)) {
    const { reference, says = 'outside its own directory', role = 'backing file' } = hazard;
    const message = `An untrusted image names '${reference}', ${says}`;

    it(`${name}: refused by name, and nothing that it names is opened`, async () => {
      const lines = [
        ['map', '--untrusted', name],
        ['compare', '--untrusted', name, name],
        ['convert', '--untrusted', '-O', 'raw', name, 'out.raw'],
        ['dd', '--untrusted', '-O', 'raw', `if=${name}`, 'of=out.raw'],
        ['measure', '--untrusted', '-O', 'raw', name],
        ['bench', '--untrusted', '-c', '1', name],
        ['map', '--untrusted', '--image-opts', `file.filename=${name}`],
        ['create', '--untrusted', '-f', 'qcow2', '-b', name, '-F', formatOf(name), 'over.qcow2'],
      ];
      // A differencing VDI is not opened for writing at all.
      if (formatOf(name) !== 'vdi') lines.push(['commit', '--untrusted', name]);
      // What tries the earlier name first ends there when it describes the chain one by one.
      if (!hazard.fallback) lines.push(['info', '--untrusted', '--backing-chain', name]);
      for (const line of lines) {
        const answer = await box.cow(line);
        expect(answer, line.join(' ')).toMatchObject({ err: expect.stringContaining(message) });
        expect(answer.code, line.join(' ')).toBeGreaterThan(0);
        expect(strayed(box.path), line.join(' ')).toEqual([]);
      }
      await expect(openImageFile(box.file(name))).rejects.toMatchObject({ code: 'denied' });
      await expect(openImageFile(box.file(name), { writable: true })).rejects.toMatchObject({
        code: expect.stringMatching(/^(denied|unsupported)$/),
      });
      expect(strayed(box.path)).toEqual([]);
    });

    it(`${name}: inspect says where it leads, and opens nothing of it`, async () => {
      const { code, found } = await box.inspect(name);
      expect(code).toBe(3);
      expect(found.filter(({ refusal }) => refusal !== undefined)).toMatchObject([
        { role, reference, refusal: message },
      ]);
      expect(strayed(box.path)).toEqual([]);
    });
  }

  it('is followed where it stays in its own directory', async () => {
    const fine: Record<string, (name: string) => Promise<unknown>> = {
      'ok-flat.vmdk': descriptor('monolithicFlat', [flat('./near-flat.vmdk')]),
      'ok-child.vmdk': (name) =>
        qemuImg('create', '-q', '-f', 'vmdk', '-b', 'parent.vmdk', '-F', 'vmdk', name),
      'ok.vhd': vhd([{ platform: 'W2ru', path: '.\\parent.vhd' }]),
      'ok-drive.vhd': vhd([{ platform: 'W2ku', path: 'C:\\VMs\\parent.vhd' }]),
      'ok-moved.vhd': vhd([
        { platform: 'W2ru', path: '.\\parent.vhd' },
        { platform: 'W2ku', path: '\\gone\\parent.vhd' },
      ]),
      'ok.vhdx': vhdx({ relative_path: '.\\parent.vhdx' }),
      'ok.qcow': backed('qcow', 'near-flat.vmdk'),
      'ok.qed': backed('qed', './below/../near-flat.vmdk'),
    };
    for (const [name, make] of Object.entries(fine)) {
      await make(name);
      expect(await box.cow(['map', '--untrusted', name]), name).toMatchObject({ code: 0, err: '' });
      expect(await box.inspect(name), name).toMatchObject({ code: 0 });
    }
  });

  it('that is an appliance: what its descriptor names is said, and refused outside of the package', async () => {
    const ovf = (hrefs: readonly string[]) =>
      `<?xml version="1.0"?><Envelope xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"><References>${hrefs
        .map((href, index) => `<File ovf:href="${href}" ovf:id="f${index}"/>`)
        .join('')}</References></Envelope>`;
    const outside = 'The OVF descriptor names';
    const cases: [string, string | undefined][] = [
      ['near-flat.vmdk', undefined],
      ['../secret.raw', outside],
      ['/etc/shadow', outside],
      ['below/../../secret.raw', outside],
      ['http://127.0.0.1:1/disk.vmdk', outside],
      ['file:///etc/shadow', outside],
      ['way-out', "An untrusted image names 'way-out', outside its own directory"],
    ];
    const text = ovf(cases.map(([href]) => href));
    await writeFile(box.file('box.ovf'), text);
    takeOpened();
    const { code, found } = await box.inspect('box.ovf');
    expect(code).toBe(3);
    expect(found).toMatchObject(
      cases.map(([reference, refusal]) => ({
        role: 'appliance file',
        reference,
        ...(refusal === undefined ? {} : { refusal: expect.stringContaining(refusal) }),
      })),
    );
    expect(found[0]).not.toHaveProperty('refusal');
    expect(strayed(box.path)).toEqual([]);
    await mustRun('tar', ['-cf', 'box.ova', 'box.ovf', 'near-flat.vmdk'], { cwd: box.path });
    expect((await box.inspect('box.ova')).found.map(({ refusal }) => refusal !== undefined)).toEqual([
      false,
      true,
      true,
      true,
      true,
      true,
      false,
    ]);
    await writeFile(box.file('fine.ovf'), ovf(['near-flat.vmdk']));
    expect(await box.inspect('fine.ovf')).toMatchObject({
      code: 0,
      found: [{ reference: 'near-flat.vmdk' }],
    });
  });

  it('that cannot name another file names none: Parallels', async () => {
    await qemuImg('create', '-q', '-f', 'parallels', 'disk.hds', '4M');
    // What Parallels keeps beside the image is no part of it.
    await writeFile(
      box.file('DiskDescriptor.xml'),
      '<Parallels_disk_image><StorageData><Storage><Image><File>/etc/shadow</File></Image></Storage></StorageData></Parallels_disk_image>',
    );
    takeOpened();
    expect(await box.inspect('disk.hds')).toEqual({ code: 0, found: [] });
    expect(await box.cow(['map', '--untrusted', 'disk.hds'])).toMatchObject({ code: 0, err: '' });
    const looked = takeOpened();
    expect(looked.map((path) => basename(path))).toContain('disk.hds');
    expect(strayed(box.path, looked)).toEqual([]);
    expect(looked.filter((path) => path.includes('DiskDescriptor'))).toEqual([]);
  });
});

function formatOf(name: string): string {
  const extension = name.slice(name.lastIndexOf('.') + 1);
  return extension === 'vhd' ? 'vpc' : extension;
}
