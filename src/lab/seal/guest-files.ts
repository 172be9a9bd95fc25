import { isDiskError } from '../../errors.ts';
import type { DirectoryEntry, FileNode, FileSystem } from '../../filesystems/file-system.ts';
import { openFileSystem } from '../../filesystems/open.ts';
import type { ByteSource } from '../../filesystems/source.ts';
import { lookUp, readContent } from '../../filesystems/tree.ts';
import { type Volume, volumesOf } from '../../filesystems/volumes.ts';

/** A volume with what it holds. */
export interface GuestVolume {
  readonly volume: Volume;
  readonly system?: FileSystem;
  /** Why its file system cannot be read. */
  readonly damage?: string;
}

/** A file of the guest, by its path there. */
export interface GuestFile {
  readonly path: string;
  readonly node: FileNode;
  readonly system: FileSystem;
}

const textLimit = 256 * 1024;

/** A guest's files as it sees them itself: its root and what its fstab mounts over it. */
export class GuestFiles {
  readonly volumes: readonly GuestVolume[];
  /** Longest first. */
  readonly #mounts: readonly { readonly at: string; readonly system: FileSystem }[];

  private constructor(
    volumes: readonly GuestVolume[],
    mounts: readonly { at: string; system: FileSystem }[],
  ) {
    this.volumes = volumes;
    this.#mounts = [...mounts].sort((a, b) => b.at.length - a.at.length);
  }

  /** Looks at every volume of a disk. Throws what reading throws; a damaged file system is told in `volumes`. */
  static async of(disk: ByteSource): Promise<GuestFiles> {
    const volumes: GuestVolume[] = [];
    for (const volume of await volumesOf(disk)) {
      try {
        volumes.push({ volume, system: await openFileSystem(volume.bytes) });
      } catch (error) {
        if (!isDiskError(error, 'corrupt') && !isDiskError(error, 'unsupported')) throw error;
        volumes.push({ volume, damage: error.message });
      }
    }
    const systems = volumes.flatMap(({ system }) => (system ? [system] : []));
    for (const system of systems) {
      if ((await lookUp(system, '/etc'))?.kind !== 'directory') continue;
      const root = { at: '/', system };
      const alone = new GuestFiles(volumes, [root]);
      const fstab = (await alone.text('/etc/fstab')) ?? '';
      return new GuestFiles(volumes, [root, ...mountsOf(fstab, volumes)]);
    }
    return new GuestFiles(volumes, []);
  }

  /** Whether a Linux system's root was found. */
  get hasRoot(): boolean {
    return this.#mounts.length > 0;
  }

  /** The file system that a path of the guest lies in, and the path there. */
  within(path: string): { readonly system: FileSystem; readonly path: string } | undefined {
    const mount = this.#mounts.find(({ at }) => at === '/' || path === at || path.startsWith(`${at}/`));
    return mount && { system: mount.system, path: mount.at === '/' ? path : path.slice(mount.at.length) };
  }

  /** Whether another file system begins there. */
  isMount(path: string): boolean {
    return this.#mounts.some(({ at }) => at === path);
  }

  async find(path: string, options: { readonly followLast?: boolean } = {}): Promise<GuestFile | undefined> {
    const mount = this.within(path);
    if (!mount) return undefined;
    const within = mount.path;
    const node = await lookUp(mount.system, within, options);
    return node && { path, node, system: mount.system };
  }

  /** The names in a directory; none where it is not there. */
  async list(path: string): Promise<readonly DirectoryEntry[]> {
    const directory = await this.find(path);
    if (directory?.node.kind !== 'directory') return [];
    const found: DirectoryEntry[] = [];
    for await (const entry of directory.system.entries(directory.node)) found.push(entry);
    return found;
  }

  /** A file's text, the first 256 KiB; undefined where it is not there. */
  async text(path: string): Promise<string | undefined> {
    const file = await this.find(path);
    if (file?.node.kind !== 'file') return undefined;
    return new TextDecoder().decode(await readContent(file.system, file.node, textLimit));
  }
}

/** Partitions of a machine's first disk, by the kernel's names. */
const firstDisk = /^\/dev\/(?:[shv]da|xvda|nvme0n1p|mmcblk0p)(\d+)$/;

/** What a volume is known by in fstab(5), as `KEY=value` or by udev's links; the value as it is compared. */
function tagOf(device: string): { readonly key: string | undefined; readonly value: string } {
  const [, key, quoted = ''] = /^(UUID|LABEL|PARTUUID)="?([^"]*)"?$/.exec(device) ?? [];
  const [, link, name = ''] = /^\/dev\/disk\/by-(uuid|label|partuuid)\/(.+)$/.exec(device) ?? [];
  const either = key ?? link?.toUpperCase();
  const value = key ? quoted : name;
  return { key: either, value: either === 'LABEL' ? value : value.toLowerCase() };
}

/** The device mapper doubles dashes within names, so that one dash parts them. */
function logicalNames({ name, uuid }: { readonly name: string; readonly uuid: string }): readonly string[] {
  const mapped = name
    .split('/')
    .map((part) => part.replaceAll('-', '--'))
    .join('-');
  const byId = '/dev/disk/by-id';
  return [
    `/dev/${name}`,
    `/dev/mapper/${mapped}`,
    `${byId}/dm-uuid-LVM-${uuid}`,
    `${byId}/dm-name-${mapped}`,
  ];
}

function mountsOf(fstab: string, volumes: readonly GuestVolume[]): { at: string; system: FileSystem }[] {
  const logical = new Map(
    volumes.flatMap((one) =>
      one.volume.logical ? logicalNames(one.volume.logical).map((name) => [name, one] as const) : [],
    ),
  );
  return fstab.split('\n').flatMap((line) => {
    const [device = '', at] = line.trim().split(/\s+/);
    if (at === undefined || !/^\/./.test(at)) return [];
    const number = firstDisk.exec(device)?.[1];
    const { key, value } = tagOf(device);
    const byTag = ({ volume: { partition }, system }: GuestVolume) => {
      if (number !== undefined) return partition?.number === Number(number);
      if (key === undefined || value === '') return false;
      if (key === 'PARTUUID') return partition?.uuid === value;
      return key === 'UUID' ? system?.uuid.toLowerCase() === value : system?.label === value;
    };
    const found = logical.get(device) ?? volumes.find(byTag);
    return found?.system ? [{ at: at.replace(/\/+$/, ''), system: found.system }] : [];
  });
}
