import { describe, expect, it } from 'vitest';
import { parseImageOptions, splitOptions } from './option-list.ts';

describe('dotted keys', () => {
  it('splits at single commas, and undoubles the others', () => {
    expect(splitOptions('a=1,,2,b=,c,nod')).toEqual([
      { name: 'a', value: '1,2', flag: false },
      { name: 'b', value: '', flag: false },
      { name: 'c', value: 'on', flag: true },
      { name: 'd', value: 'off', flag: true },
    ]);
  });

  it('takes a first word without a value for the file, and tells of flags', () => {
    const flags: string[] = [];
    const options = parseImageOptions('disk0,file.filename=a,,b,x,noy', (name, value) =>
      flags.push(`${name}=${value}`),
    );
    expect(Object.fromEntries(options.entries())).toEqual({
      file: 'disk0',
      'file.filename': 'a,b',
      x: 'on',
      y: 'off',
    });
    expect(flags).toEqual(['x=on', 'y=off']);
    expect(options.child('file').text('filename')).toBe('a,b');
    expect([...options.withoutChild('file').entries()]).toEqual([
      ['x', 'on'],
      ['y', 'off'],
    ]);
  });

  it('lets the last of a name win', () => {
    expect(parseImageOptions('driver=raw,driver=qcow2').text('driver')).toBe('qcow2');
  });
});
