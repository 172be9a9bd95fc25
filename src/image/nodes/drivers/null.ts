import { NullStore } from '../../../storage/null.ts';
import { type NodeDriver, nodeError } from '../node-driver.ts';

/** Bytes without a size of their own, as QEMU's. */
const defaultBytes = 2 ** 30;

/** `null-co` and `null-aio`: a disk that takes everything and keeps nothing. */
export const nullDrivers: readonly NodeDriver[] = ['null-co', 'null-aio'].map((name) => ({
  name,
  kind: 'protocol',
  prefixes: [name],
  telling: ['size', 'read-zeroes'],
  parseName(filename, options) {
    if (filename !== `${name}://`) {
      throw nodeError('filename', `The only allowed filename for this driver is '${name}://'`);
    }
    return options;
  },
  async open({ reader }) {
    const size = reader.size('size') ?? defaultBytes;
    const latencyNanoseconds = reader.number('latency-ns') ?? 0;
    const readZeroes = reader.boolean('read-zeroes') ?? false;
    if (latencyNanoseconds < 0) throw nodeError('latency-ns', 'latency-ns is invalid');
    const plain = !reader.options.has('size') && !reader.options.has('read-zeroes');
    const exact = plain ? `${name}://` : undefined;
    return { source: new NullStore({ name: `${name}://`, size, readZeroes, latencyNanoseconds }), exact };
  },
}));
