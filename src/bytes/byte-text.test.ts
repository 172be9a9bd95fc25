import { expect, it } from 'vitest';
import { assertText, bytesOf, isText, shownName, textOf } from './byte-text.ts';
import { jsonString } from './qemu-json.ts';

it('gives every sequence of bytes a text of its own, and takes it back', () => {
  let seed = 1;
  const random = () => {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
    return seed >>> 16;
  };
  // Bytes that begin, go on with and break characters of each length.
  const some = [0x41, 0x80, 0xbf, 0xc0, 0xc3, 0xe2, 0x82, 0xac, 0xed, 0xa0, 0xf0, 0x9f, 0x98, 0xf4, 0xff];
  const texts = new Map<string, string>();
  for (let turn = 0; turn < 20_000; turn++) {
    const bytes = Uint8Array.from({ length: random() % 6 }, () => some[random() % some.length]);
    const text = textOf(bytes);
    expect(Buffer.from(bytesOf(text))).toEqual(Buffer.from(bytes));
    expect(isText(text)).toBe(Buffer.from(Buffer.from(bytes).toString()).equals(Buffer.from(bytes)));
    const hex = Buffer.from(bytes).toString('hex');
    expect(texts.get(text) ?? hex).toBe(hex);
    texts.set(text, hex);
  }
  expect(texts.size).toBeGreaterThan(5_000);
});

it('leaves text as it is, a mark of the byte order and U+FFFD too', () => {
  for (const text of ['', 'b.raw', 'Schüler', '\ufeffx', '\ufffd', '😀', '\uffff']) {
    expect(textOf(new TextEncoder().encode(text))).toBe(text);
    expect(isText(text)).toBe(true);
  }
});

it('shows odd bytes as ls does, and refuses to lead anywhere by them', () => {
  const name = textOf(Buffer.from('b\xfc.raw', 'latin1'));
  expect(shownName(name)).toBe('b\\374.raw');
  expect(() => assertText(name, 'ov.qcow2')).toThrow(/'b\\374\.raw' is not UTF-8.*'ov\.qcow2'.*rebase -u/);
  expect(() => assertText('b\ufffd.raw')).not.toThrow();
});

// What qemu-img 7.2 prints for these.
it.each([
  ['fc', '\\uFFFD'],
  ['e282', '\\uFFFD'],
  ['e282fc', '\\uFFFD\\uFFFD'],
  ['f09f9878', '\\uFFFDx'],
  ['eda080', '\\uFFFD'],
  ['c0af', '\\uFFFD'],
  ['c080', '\\u0000'],
  ['f888808080', '\\uFFFD'],
  ['fffe', '\\uFFFD\\uFFFD'],
  ['f4908080', '\\uFFFD'],
  ['efbfbf', '\\uFFFD'],
  ['efb790', '\\uFFFD'],
  ['e282ac', '\\u20AC'],
  ['f09f9880', '\\uD83D\\uDE00'],
])('prints the bytes %s in JSON as QEMU does', (hex, printed) => {
  expect(jsonString(textOf(Buffer.from(hex, 'hex')))).toBe(`"${printed}"`);
});
