import { expect, it } from 'vitest';
import { withValue } from './edit.ts';

it('changes a value and nothing else', () => {
  const text = '# my class\nlab: x\nmaster: masters/a.qcow2   # golden\nseats: 3\n';
  expect(withValue(text, ['master'], 'masters/a@2.qcow2')).toBe(
    '# my class\nlab: x\nmaster: masters/a@2.qcow2   # golden\nseats: 3\n',
  );
  expect(withValue("master: 'a b'\n", ['master'], 'c: d')).toBe('master: "c: d"\n');
  expect(withValue('{"lab": "x", "master": "a"}', ['master'], 'b')).toBe('{"lab": "x", "master": "b"}');
  expect(withValue('master: {path: a.raw, format: raw}\n', ['master', 'path'], 'b.raw')).toBe(
    'master: {path: b.raw, format: raw}\n',
  );
});

it('adds what is not there', () => {
  expect(withValue('lab: x # one\nseats: 2\n', ['pool'], 'far/away')).toBe(
    'lab: x # one\nseats: 2\npool: far/away\n',
  );
});
