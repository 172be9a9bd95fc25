import { SparseBytes } from '../../crash/sparse-bytes.ts';
import { imageTarget } from '../image-target.ts';
import { ownSeeds } from '../images.ts';
import { qcow2Fields } from '../qcow2-fields.ts';
import type { Target } from '../target.ts';

export const qcow2Images: Target = imageTarget({
  name: 'qcow2 images',
  format: 'qcow2',
  share: 10,
  async seeds(files) {
    const others = [...files]
      .filter(([name]) => name.startsWith('qemu qcow2 '))
      .map(([name, bytes]) => ({ name, format: 'qcow2', content: SparseBytes.of(bytes) }));
    return [...(await ownSeeds()), ...others];
  },
  fieldsOf: qcow2Fields,
});
