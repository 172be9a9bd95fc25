import { expect, it } from 'vitest';
import { createImage, openImage } from '../image/open.ts';
import { MemoryStore } from '../storage/memory.ts';
import type { OptionValues } from './driver.ts';
import { formats } from './index.ts';

const size = 1 << 20;

async function make(format: string, options: OptionValues): Promise<MemoryStore> {
  const store = new MemoryStore({ name: 'new' });
  await createImage(store, format, size, options, { secret: async () => new TextEncoder().encode('secret') });
  return store;
}

const creatable = formats.filter(({ create }) => create);

it.each(creatable.map(({ name }) => name))(
  'no option of a new image in %s is passed over',
  async (format) => {
    for (const name of ['encrypt-format', 'clusterSize', 'nonesuch', 'size', 'backing_file', 'toString']) {
      const making = make(format, { name: undefined, [name]: name === 'size' ? size : 'on' });
      await expect(making).rejects.toMatchObject({ code: 'bad-argument', field: name, path: 'new' });
    }
    const { createOptions } = creatable.find(({ name }) => name === format)!;
    for (const { name, type } of createOptions) {
      if (type === 'string' || name === 'size') continue;
      await expect(make(format, { [name]: 'maybe' })).rejects.toMatchObject({
        code: 'bad-argument',
        field: name,
      });
      if (type !== 'boolean') continue;
      await expect(make(format, { [name]: 1 })).rejects.toMatchObject({
        message: `Parameter '${name}' expects 'on' or 'off'`,
      });
    }
  },
);

it('an image that was to be encrypted is never made in the clear', async () => {
  await expect(make('qcow2', { encryption: 'on' })).rejects.toMatchObject({ field: 'encrypt.format' });
  await expect(make('qcow2', { 'encrypt-format': 'luks' })).rejects.toThrow(
    "Invalid parameter 'encrypt-format'",
  );
  await expect(make('vdi', { preallocation: 'full' })).rejects.toThrow("Invalid parameter 'preallocation'");
});

it('values are taken as the tools take them', async () => {
  const written = async (format: string, options: OptionValues) => (await make(format, options)).toBytes();
  for (const [format, texts, values] of [
    [
      'qcow2',
      { lazy_refcounts: 'on', extended_l2: 'yes', cluster_size: '64k', refcount_bits: '0x20' },
      { lazy_refcounts: true, extended_l2: true, cluster_size: 65536, refcount_bits: 32 },
    ],
    ['parallels', { cluster_size: '128K' }, { cluster_size: 131072 }],
    ['qed', { cluster_size: '4k', table_size: '2' }, { cluster_size: 4096, table_size: 2 }],
  ] as const) {
    expect(Buffer.compare(await written(format, texts), await written(format, values))).toBe(0);
  }
  await using image = await openImage(await make('vhdx', { block_size: '2M' }));
  expect((await image.layer.details()).clusterSize).toBe(2 << 20);
  for (const block_size of ['2MB', -1, 1.5, Number.NaN, true]) {
    await expect(make('vhdx', { block_size })).rejects.toMatchObject({
      code: 'bad-argument',
      field: 'block_size',
      message: "Parameter 'block_size' expects a non-negative number below 2^64",
    });
  }
});

it('an error of creating says which image it is', async () => {
  await expect(
    createImage(new MemoryStore({ name: 'new' }), 'qcow2', Number.MAX_SAFE_INTEGER),
  ).rejects.toMatchObject({
    code: 'out-of-range',
    path: 'new',
    field: 'size',
  });
});
