import { alignUp } from '../../bytes/numbers.ts';
import { DiskError } from '../../errors.ts';
import type { ByteStore } from '../../storage/store.ts';
import { hasFixedSize } from '../../storage/store.ts';
import type { FormatDriver } from '../driver.ts';
import { RawLayer, sectorBytes, WritableRawLayer } from './layer.ts';

const preallocations = ['off', 'falloc', 'full'] as const;
type RawPreallocation = (typeof preallocations)[number];

/** Raw: guest byte n is byte n of the file. It has no signature, so probing chooses it last. */
export const raw: FormatDriver = {
  name: 'raw',

  // The host file's own options; QEMU lists them for raw since it creates the file itself.
  createOptions: [
    { name: 'extent_size_hint', type: 'size', help: 'Extent size hint for the image file, 0 to disable' },
    { name: 'nocow', type: 'boolean', help: 'Turn off copy-on-write (valid only on btrfs)' },
    {
      name: 'preallocation',
      type: 'string',
      help: 'Preallocation mode (allowed values: off, falloc, full)',
    },
    { name: 'size', type: 'size', help: 'Virtual disk size' },
  ],

  probe: () => 1,

  async open(source, context) {
    return context.writable ? new WritableRawLayer(source as ByteStore) : new RawLayer(source);
  },

  async create(store, size, options, context) {
    if (context.backing) {
      throw new DiskError('unsupported', 'A raw image cannot have a backing file', {
        path: store.name,
        field: 'backing_file',
      });
    }
    const preallocation = preallocationOf(options.preallocation, store.name);
    const length = alignUp(size, sectorBytes);
    if (hasFixedSize(store)) {
      // A device keeps its size, and what is to be there is what it has (a thin volume: nothing).
      if (preallocation !== 'off') {
        throw new DiskError('unsupported', `Unsupported preallocation mode '${preallocation}'`, {
          path: store.name,
          field: 'preallocation',
          detail: { value: preallocation },
        });
      }
      if (store.size < length) {
        throw new DiskError('out-of-space', `The device has ${store.size} bytes, the image needs ${length}`, {
          path: store.name,
          field: 'size',
          detail: { size: length, device: store.size },
        });
      }
      // But not the header of an older image, which whoever guesses its format would take it for.
      await store.zero(0, Math.min(sectorBytes, store.size));
      return;
    }
    await store.resize(0);
    await store.resize(length, { preallocation, onProgress: context.onProgress });
  },

  async measure({ size }) {
    // Holes count: whoever copies the file may fill them.
    const bytes = ((size + 511n) / 512n) * 512n;
    return { required: bytes, fullyAllocated: bytes };
  },
};

function preallocationOf(value: unknown, path: string): RawPreallocation {
  const mode = value ?? 'off';
  if (preallocations.includes(mode as RawPreallocation)) return mode as RawPreallocation;
  throw new DiskError('bad-argument', `A raw image has no preallocation mode ${mode}`, {
    path,
    field: 'preallocation',
    detail: { value: String(mode) },
  });
}
