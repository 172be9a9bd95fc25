import { describe, expect, it } from 'vitest';
import { ToyLayer } from '../../test/support/toy-layer.ts';
import type { FormatDriver } from '../formats/driver.ts';
import { raw } from '../formats/raw/index.ts';
import { MemoryStore } from '../storage/memory.ts';
import type { ByteSource } from '../storage/store.ts';
import { createImage, type OpenImageOptions, openImage, openLayer } from './open.ts';
import { assertAllowed, trustedImages, untrustedImages } from './policy.ts';
import { guessFormat } from './probe.ts';
import { combineReference, parseReference, requireFile } from './reference.ts';

/** Its content is `TOY` and then, after a line feed each, the backing image's name and format. */
const toy: FormatDriver = {
  name: 'toy',
  createOptions: [],
  probe: ({ head }) => (text(head).startsWith('TOY') ? 100 : 0),
  async open(source, context) {
    const bytes = new Uint8Array(source.size);
    await source.read(0, bytes);
    const [, path, format] = text(bytes).split('\n');
    if (path === 'data') await context.sibling!(format, context.writable);
    const layer = new ToyLayer({
      size: 8192,
      backing: path && path !== 'data' ? { path, format: format || undefined } : undefined,
    });
    const { source: own } = layer;
    Object.assign(own, { [Symbol.asyncDispose]: () => source[Symbol.asyncDispose]() });
    return layer;
  },
};

function text(bytes: Uint8Array): string {
  return new TextDecoder('latin1').decode(bytes);
}

class CountedStore extends MemoryStore {
  closed = 0;
  override async [Symbol.asyncDispose](): Promise<void> {
    this.closed++;
  }
}

/** A world of named images. */
class World {
  readonly files = new Map<string, CountedStore>();
  readonly opened: CountedStore[] = [];

  add(name: string, content: string): void {
    this.files.set(name, new CountedStore({ name, bytes: new TextEncoder().encode(content) }));
  }

  open(name: string): CountedStore {
    const found = this.files.get(name);
    if (!found) throw Object.assign(new Error(`no ${name}`), { code: 'gone' });
    const store = new CountedStore({ name, bytes: found.toBytes() });
    this.opened.push(store);
    return store;
  }

  options(more: OpenImageOptions = {}): OpenImageOptions {
    return {
      formats: [toy, raw],
      resolve: async (reference, from) => this.open(combineReference(from.name, reference.path)),
      ...more,
    };
  }

  get allClosedOnce(): boolean {
    return this.opened.every((store) => store.closed === 1);
  }
}

describe('opening a chain', () => {
  it('goes to its end, with formats as written or guessed', async () => {
    const world = new World();
    world.add('a/top', 'TOY\nmiddle\n');
    world.add('a/middle', 'TOY\nraw.img\nraw');
    world.add('a/raw.img', 'TOY is what this raw image holds');
    const image = await openImage(world.open('a/top'), world.options());
    expect(image.probed).toBe(true);
    expect(image.backing?.layer.format).toBe('toy');
    expect(image.backing?.backing?.layer.format).toBe('raw');
    expect(image.backing?.backing?.probed).toBe(false);
    const bytes = new Uint8Array(3);
    await image.read(0, bytes);
    expect(text(bytes)).toBe('TOY');
    await image[Symbol.asyncDispose]();
    expect(world.allClosedOnce).toBe(true);
  });

  it('may leave it closed', async () => {
    const world = new World();
    world.add('top', 'TOY\ngone\n');
    await using image = await openImage(world.open('top'), world.options({ backing: 'ignore' }));
    expect(image.backing).toBeUndefined();
    const { layer } = await openLayer(world.open('top'), world.options());
    expect(layer.backing).toEqual({ path: 'gone', format: undefined });
  });

  it('tells where in the chain an error lies, and closes what it opened', async () => {
    const world = new World();
    world.add('top', 'TOY\nmiddle\n');
    world.add('middle', 'TOY\nbase\nnonsense');
    world.add('base', 'x');
    const error = await openImage(world.open('top'), world.options()).catch((caught) => caught);
    expect(error).toMatchObject({
      code: 'bad-argument',
      field: 'format',
      detail: { format: 'nonsense', role: 'backing', depth: 2, from: 'middle', reference: 'base' },
      cause: { code: 'bad-argument', path: 'base' },
    });
    expect(error.message).not.toContain('nonsense');
    expect(world.opened.length).toBe(3);
    expect(world.allClosedOnce).toBe(true);
  });

  it('finds a loop, by name or by whatever tells files apart', async () => {
    const world = new World();
    world.add('top', 'TOY\nmiddle\n');
    world.add('middle', 'TOY\n./top\n');
    world.add('./top', 'TOY\nmiddle\n');
    const loop = { code: 'corrupt', field: 'backing chain', detail: { loop: true, from: 'middle' } };
    const identify = (source: ByteSource) => source.name.replace('./', '');
    const error = await openImage(world.open('top'), world.options({ identify })).catch((caught) => caught);
    expect(error).toMatchObject(loop);
    world.add('self', 'TOY\nself\n');
    await expect(openImage(world.open('self'), world.options())).rejects.toMatchObject({
      code: 'corrupt',
      field: 'backing chain',
    });
    expect(world.allClosedOnce).toBe(true);
  });

  it('of 300 is opened, and one deeper than the limit is refused', async () => {
    const world = new World();
    for (let index = 0; index < 600; index++) world.add(`${index}`, `TOY\n${index + 1}\n`);
    world.add('300', 'TOY');
    const image = await openImage(world.open('0'), world.options());
    await image.read(0, new Uint8Array(8192));
    await image[Symbol.asyncDispose]();
    world.add('300', 'TOY\n301\n');
    const error = await openImage(world.open('0'), world.options()).catch((caught) => caught);
    expect(error).toMatchObject({ code: 'unsupported', field: 'backing chain', detail: { limit: 500 } });
    expect(world.allClosedOnce).toBe(true);
  });

  it('needs somebody to open what is named', async () => {
    const world = new World();
    world.add('top', 'TOY\nbase\n');
    await expect(openImage(world.open('top'), { formats: [toy, raw] })).rejects.toMatchObject({
      code: 'unsupported',
      field: 'reference',
    });
    world.add('data', 'TOY\ndata\ndisk');
    await expect(openImage(world.open('data'), { formats: [toy, raw] })).rejects.toMatchObject({
      code: 'unsupported',
    });
    expect(world.allClosedOnce).toBe(true);
  });

  it('stops when the signal is given', async () => {
    const world = new World();
    world.add('top', 'TOY');
    const options = world.options({ signal: AbortSignal.abort('enough') });
    await expect(openImage(world.open('top'), options)).rejects.toBe('enough');
    expect(world.allClosedOnce).toBe(true);
  });
});

describe('an untrusted image', () => {
  const options = { policy: untrustedImages };

  it('may name files beside or below it', async () => {
    const world = new World();
    world.add('dir/top', 'TOY\n./sub/../base\nraw');
    world.add('dir/./sub/../base', 'x');
    world.add('top', 'TOY\nsub/base\nraw');
    world.add('sub/base', 'x');
    for (const name of ['dir/top', 'top']) {
      const image = await openImage(world.open(name), world.options(options));
      expect(image.backing).toBeDefined();
    }
  });

  it.each([
    '/etc/shadow',
    '../base',
    'sub/../../base',
    'nbd:localhost:10809',
    'json:{}',
    'file:/etc/shadow',
    '/dirty/base',
  ])('may not name %s', async (name) => {
    const world = new World();
    for (const top of ['/dir/top', 'dir/top', 'top']) {
      world.add(top, `TOY\n${name}\nraw`);
      await expect(openImage(world.open(top), world.options(options))).rejects.toMatchObject({
        code: 'denied',
        detail: { reference: name },
      });
      world.add(top, `TOY\ndata\n${name}`);
      await expect(openImage(world.open(top), world.options(options))).rejects.toMatchObject({
        code: 'denied',
      });
    }
    expect(world.opened.length).toBe(6);
  });

  it('may not lead out by a symbolic link', async () => {
    const canonical = async (path: string) => (path === '/dir/link' ? '/etc/shadow' : path);
    const from = { name: '/dir/top', depth: 0, role: 'backing' } as const;
    await assertAllowed('base', from, untrustedImages, canonical);
    await expect(assertAllowed('link', from, untrustedImages, canonical)).rejects.toMatchObject({
      code: 'denied',
    });
    await assertAllowed('link', from, trustedImages, canonical);
  });

  it('may not have a chain of more than 16', async () => {
    const world = new World();
    for (let index = 0; index < 15; index++) world.add(`${index}`, `TOY\n${index + 1}\n`);
    world.add('15', 'TOY');
    await openImage(world.open('0'), world.options(options));
    world.add('15', 'TOY\n16\n');
    world.add('16', 'TOY');
    await expect(openImage(world.open('0'), world.options(options))).rejects.toMatchObject({
      detail: { limit: 16 },
    });
  });
});

describe('names', () => {
  it.each([
    ['a/b.img', { kind: 'file', path: 'a/b.img' }],
    ['file:b.img', { kind: 'file', path: 'b.img' }],
    ['file:a:b', { kind: 'file', path: './a:b' }],
    ['file:///b.img', { kind: 'file', path: '///b.img' }],
    ['host_device:/dev/loop0', { kind: 'file', path: '/dev/loop0' }],
    ['./a:b', { kind: 'file', path: './a:b' }],
    ['a:b', { kind: 'protocol', protocol: 'a', name: 'a:b' }],
    ['nbd://h/x', { kind: 'protocol', protocol: 'nbd', name: 'nbd://h/x' }],
    ['json:{"driver": "raw"}', { kind: 'json', text: '{"driver": "raw"}' }],
  ])('%s is taken apart', (name, reference) => {
    expect(parseReference(name)).toEqual(reference);
  });

  it.each([
    ['top', 'base', 'base'],
    ['d/top', 'base', 'd/base'],
    ['d/top', '../base', 'd/../base'],
    ['d/top', '/base', '/base'],
    ['/d/top', 'nbd:x', 'nbd:x'],
    ['http://host/d/top', 'base', 'http://host/d/base'],
    ['nbd:top', 'base', 'nbd:base'],
  ])('beside %s, %s means %s', (base, name, meant) => {
    expect(combineReference(base, name)).toBe(meant);
  });

  it('that lead to no file are refused by their protocol', () => {
    expect(requireFile('file:x')).toBe('x');
    const protocol = (name: string) => {
      try {
        return requireFile(name);
      } catch (error) {
        return (error as { detail: unknown }).detail;
      }
    };
    expect(protocol('nbd:localhost:1')).toEqual({ protocol: 'nbd', known: true });
    expect(protocol('json:{}')).toEqual({ protocol: 'json', known: true });
    expect(protocol('foo:bar')).toEqual({ protocol: 'foo', known: false });
    expect(() => combineReference('json:{}', 'base')).toThrow(
      expect.objectContaining({ code: 'bad-argument' }),
    );
  });
});

describe('probing', () => {
  const guess = (head: string) => {
    const bytes = new Uint8Array(512);
    bytes.set(Uint8Array.from(head, (letter) => letter.charCodeAt(0)));
    return guessFormat({ head: bytes, size: 65536, name: 'x' }, [raw]);
  };

  // As qemu-img 7.2 answered for each of these.
  it.each([
    ['', 'raw'],
    ['QFI\xfb\0\0\0\x02', 'qcow2'],
    ['QFI\xfb\0\0\0\x07', 'qcow2'],
    ['QFI\xfb\0\0\0\x01', 'qcow'],
    ['QFI\xfb\0\0\0\0', 'raw'],
    ['KDMV', 'vmdk'],
    ['COWD', 'vmdk'],
    ['version=1\n', 'vmdk'],
    ['#x\nversion=2\n', 'vmdk'],
    ['# Disk\n  \r\nversion=3\r\n', 'vmdk'],
    ['version=4\n', 'raw'],
    [' version=1\n', 'raw'],
    ['\n#x\nversion=1\n', 'raw'],
    ['version = 1\n', 'raw'],
    ['version=1', 'raw'],
    ['conectix', 'vpc'],
    ['vhdxfile', 'vhdx'],
    ['QED\0', 'qed'],
    ['WithoutFreeSpace\x02\0\0\0', 'parallels'],
    ['WithoutFreeSpace\x03\0\0\0', 'raw'],
    ['LUKS\xba\xbe\0\x01', 'luks'],
    ['LUKS\xba\xbe\0\x02', 'raw'],
    ['Bochs Virtual HD Image\0', 'raw'],
  ])('%j is %s', (head, format) => {
    expect(guess(head)).toBe(format);
  });

  it('never takes a known format for raw', async () => {
    const source = new CountedStore({ bytes: new TextEncoder().encode('KDMV') });
    await expect(openImage(source, { formats: [raw] })).rejects.toMatchObject({
      code: 'unsupported',
      field: 'format',
      detail: { format: 'vmdk' },
    });
    expect(source.closed).toBe(1);
    const given = await openImage(new MemoryStore({ bytes: new TextEncoder().encode('KDMV') }), {
      formats: [raw],
      format: 'raw',
    });
    expect(given.size).toBe(512);
  });

  it('takes an empty file for raw', async () => {
    const image = await openImage(new MemoryStore(), { formats: [toy, raw] });
    expect([image.layer.format, image.size]).toEqual(['raw', 0]);
  });
});

describe('creating', () => {
  it('refuses an unknown format, one that cannot, and sizes that are none', async () => {
    const store = new MemoryStore();
    const context = { formats: [toy, raw] };
    await expect(createImage(store, 'none', 1, {}, context)).rejects.toMatchObject({
      code: 'bad-argument',
      field: 'format',
    });
    await expect(createImage(store, 'toy', 1, {}, context)).rejects.toMatchObject({ code: 'unsupported' });
    for (const size of [-1, 2 ** 53, 0.5]) {
      await expect(createImage(store, 'raw', size, {}, context)).rejects.toMatchObject({
        code: 'bad-argument',
        field: 'size',
      });
    }
    await expect(
      createImage(store, 'raw', 1, {}, { ...context, backing: { path: 'x' } }),
    ).rejects.toMatchObject({
      code: 'unsupported',
      field: 'backing_file',
    });
    await expect(createImage(store, 'raw', 1, { preallocation: 'metadata' }, context)).rejects.toMatchObject({
      code: 'bad-argument',
      field: 'preallocation',
      detail: { value: 'metadata' },
    });
    expect(store.size).toBe(0);
    await createImage(store, 'raw', 1000, {}, context);
    expect(store.size).toBe(1024);
  });
});
