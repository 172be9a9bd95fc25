import { expect, it } from 'vitest';
import { ExtensionType } from '../../formats/qcow2/constants.ts';
import { encodeNewImage } from '../../formats/qcow2/create.ts';
import { encodeProvenance } from '../disks/overlay.ts';
import { type SparseContent, withoutZeroes } from '../disks/place-files.ts';
import { seatImages } from './seat-image.ts';

function whole({ size, parts }: SparseContent): Uint8Array {
  const bytes = new Uint8Array(size);
  for (const part of parts) bytes.set(part.bytes, part.at);
  return bytes;
}

const backing = { path: '../masters/debian-12.qcow2', format: 'qcow2' };

it.each([1 << 20, 10 * 2 ** 30, 3 * 2 ** 40 + 512])(
  'encodes each of many images of %i bytes as one by itself',
  (size) => {
    const encode = seatImages(size, backing);
    for (const seat of ['student-1', 'student-1000', 'a-seat-with-a-longer-name', 'x']) {
      const data = encodeProvenance({ v: 1, lab: 'networking-101', seat, master: 'sha256:00' });
      const extensions = [{ type: ExtensionType.provenance, data }];
      const alone = encodeNewImage(size, {}, { backing, extensions }).bytes;
      expect(Buffer.compare(whole(encode(extensions)), alone)).toBe(0);
    }
  },
);

it('finds what of a file is not zero', () => {
  for (const length of [0, 1, 4096, 10_000, 64 * 1024]) {
    const bytes = new Uint8Array(length);
    for (const at of [0, 4095, 4096, 9999, 40_000]) if (at < length) bytes[at] = 7;
    const content = withoutZeroes(bytes);
    expect(Buffer.compare(whole(content), bytes)).toBe(0);
    expect(content.parts.reduce((sum, part) => sum + part.bytes.length, 0)).toBeLessThanOrEqual(16_384);
  }
});
