import { FilterStore } from '../../../storage/filter-store.ts';
import { PreallocatingStore } from '../../../storage/preallocate.ts';
import { ThrottledStore } from '../../../storage/throttle.ts';
import { ImageStore } from '../../image-store.ts';
import { PackingStore } from '../../packing-store.ts';
import { type NodeDriver, nodeError } from '../node-driver.ts';

/** Requests wait for the limits of a group. */
export const throttleDriver: NodeDriver = {
  name: 'throttle',
  kind: 'filter',
  telling: ['throttle-group'],
  async open({ host, reader, openChild }) {
    const file = await openChild('file');
    try {
      const id = reader.string('throttle-group');
      if (id === undefined) throw nodeError('throttle-group', 'Please specify a throttle group');
      const group = host.throttleGroup?.(id);
      if (!group) throw nodeError('throttle-group', `Throttle group '${id}' does not exist`);
      return { source: new ThrottledStore(file.source, group), children: { file } };
    } catch (error) {
      await file.source[Symbol.asyncDispose]();
      throw error;
    }
  },
};

/** What is read from backing images is written into the image itself. */
export const copyOnReadDriver: NodeDriver = {
  name: 'copy-on-read',
  kind: 'filter',
  telling: ['bottom'],
  async open({ reader, writable, openChild }) {
    const readOnly = reader.options.get('read-only');
    const allowed = writable || readOnly === 'off' || readOnly === false;
    // QEMU finds a file that is missing before it finds that it may not be written.
    if (!allowed && (reader.options.has('file') || reader.options.child('file').size > 0)) {
      throw nodeError('read-only', 'Block node is read-only', 'read-only');
    }
    const file = await openChild('file', { writable: true });
    const bottom = reader.string('bottom');
    if (bottom !== undefined) {
      await file.source[Symbol.asyncDispose]();
      throw nodeError('bottom', `Bottom node '${bottom}' not found`);
    }
    const source = file.image
      ? new ImageStore(file.image, { copyOnRead: true }, file.source.clusterBytes)
      : new FilterStore(file.source);
    return { source, children: { file } };
  },
};

/** What is written is stored compressed. */
export const compressDriver: NodeDriver = {
  name: 'compress',
  kind: 'filter',
  telling: [],
  async open({ openChild }) {
    const file = await openChild('file');
    if (!file.image || !file.packs) {
      await file.source[Symbol.asyncDispose]();
      throw nodeError(
        'file',
        `Compression is not supported for underlying format: ${file.driver}`,
        'unsupported',
      );
    }
    const source = new PackingStore(file.image, {}, file.source.clusterBytes);
    return { source, children: { file } };
  },
};

/** Space is set aside ahead of a file that grows. */
export const preallocateDriver: NodeDriver = {
  name: 'preallocate',
  kind: 'filter',
  telling: [],
  async open({ reader, writable, openChild }) {
    const file = await openChild('file');
    const align = reader.size('prealloc-align');
    const ahead = reader.size('prealloc-size');
    if (align !== undefined && align % 512 !== 0) {
      await file.source[Symbol.asyncDispose]();
      throw nodeError(
        'prealloc-align',
        'prealloc-align parameter of preallocate filter is not aligned to 512',
      );
    }
    const grows = writable && !file.image;
    const source = grows
      ? new PreallocatingStore(file.source, { ahead, align: align || undefined })
      : new FilterStore(file.source);
    return { source, children: { file } };
  },
};
