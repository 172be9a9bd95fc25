import { expect, it } from 'vitest';
import { compactJson, jsonString, prettyJson, qdictOrder } from './qemu-json.ts';

it("orders keys as QEMU's hash table does", () => {
  const keys = [
    'filename',
    'format',
    'virtual-size',
    'actual-size',
    'dirty-flag',
    'cluster-size',
    'format-specific',
    'backing-filename',
    'full-backing-filename',
    'backing-filename-format',
  ];
  expect(qdictOrder(keys)).toEqual([
    'backing-filename-format',
    'virtual-size',
    'filename',
    'cluster-size',
    'format',
    'actual-size',
    'format-specific',
    'full-backing-filename',
    'backing-filename',
    'dirty-flag',
  ]);
});

it('indents by four, leaves undefined out, and opens empty containers on a line of their own', () => {
  expect(prettyJson({ data: { flags: [], name: 'b0' }, gone: undefined })).toBe(
    '{\n    "data": {\n        "flags": [\n        ],\n        "name": "b0"\n    }\n}',
  );
  expect(prettyJson([1n, true, null])).toBe('[\n    1,\n    true,\n    null\n]');
});

it('escapes all but printable ASCII', () => {
  expect(jsonString('b\u00e9\u0001"\\\t/\u{1F404}\u007f')).toBe(
    '"b\\u00E9\\u0001\\"\\\\\\t/\\uD83D\\uDC04\\u007F"',
  );
});

it('prints on one line for file names', () => {
  expect(compactJson({ driver: 'raw', file: { filename: 'a' } })).toBe(
    '{"driver": "raw", "file": {"filename": "a"}}',
  );
});
