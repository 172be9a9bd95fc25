import { type NodeDriver, nodeError } from '../node-driver.ts';
import type { NodeOptions } from '../node-options.ts';
import type { OptionReader } from '../option-reader.ts';

const telling = ['filename'];

/** A regular file or a block device of the host. */
export const fileDriver: NodeDriver = {
  name: 'file',
  kind: 'protocol',
  prefixes: ['file'],
  needsFilename: true,
  telling,
  parseName: (name, options) => withoutPrefix('file', name, options),
  async open({ host, writable, reader }) {
    const path = pathOf('file', reader);
    readFileOptions(reader);
    return { source: await host.openFile(path, { writable, device: false }), exact: path };
  },
};

/** A block device of the host. Nothing else. */
export const hostDeviceDriver: NodeDriver = {
  name: 'host_device',
  kind: 'protocol',
  prefixes: ['host_device'],
  needsFilename: true,
  telling,
  parseName: (name, options) => withoutPrefix('host_device', name, options),
  async open({ host, writable, reader }) {
    const path = pathOf('host_device', reader);
    readFileOptions(reader);
    return { source: await host.openFile(path, { writable, device: true }), exact: path };
  },
};

function withoutPrefix(prefix: string, name: string, options: NodeOptions): NodeOptions {
  if (!name.startsWith(`${prefix}:`)) return options.with('filename', name);
  const path = name.slice(prefix.length + 1);
  // What follows the prefix is a path even where it looks like another protocol.
  const looksLikeProtocol = /^[^/]*:/.test(path);
  return options.with('filename', looksLikeProtocol ? `./${path}` : path);
}

function pathOf(driver: string, reader: OptionReader): string {
  const path = reader.options.text('filename');
  reader.skip('filename');
  if (!path) throw nodeError('filename', `The '${driver}' block driver requires a file name`);
  return path;
}

/** What QEMU can be told of a file. How requests are made is our own affair, so most is checked and then left. */
function readFileOptions(reader: OptionReader): void {
  const aio = reader.choice('aio', ['threads', 'native', 'io_uring']);
  reader.choice('locking', ['auto', 'on', 'off']);
  const manager = reader.string('pr-manager');
  if (manager !== undefined) {
    throw nodeError('pr-manager', `No persistent reservation manager with id '${manager}'`);
  }
  reader.boolean('drop-cache');
  reader.boolean('x-check-cache-dropped');
  reader.number('aio-max-batch');
  if (
    aio === 'native' &&
    reader.options.get('cache.direct') !== 'on' &&
    reader.options.get('cache.direct') !== true
  ) {
    throw nodeError(
      'aio',
      'aio=native was specified, but it requires cache.direct=on, which was not specified.',
    );
  }
}
