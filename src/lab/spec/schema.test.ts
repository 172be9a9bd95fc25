import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { parseLab } from './load.ts';
import { labJsonSchema, labSchema } from './schema.ts';

const file = new URL('../../../schema/lab.schema.json', import.meta.url);

it('is the one in schema/ (write it anew with: cowherd schema > schema/lab.schema.json)', () => {
  expect(JSON.parse(readFileSync(file, 'utf8'))).toEqual(labJsonSchema());
});

it('describes every key', () => {
  const { properties } = labJsonSchema() as { properties: Record<string, { description?: string }> };
  expect(Object.keys(properties)).toEqual(Object.keys(labSchema.shape));
  for (const [key, value] of Object.entries(properties)) expect(value.description, key).toBeTruthy();
});

it('has defaults that the program takes', () => {
  const { properties } = labJsonSchema() as { properties: Record<string, { default?: unknown }> };
  const defaults = Object.fromEntries(
    Object.entries(properties).flatMap(([key, value]) => ('default' in value ? [[key, value.default]] : [])),
  );
  const least = { lab: 'l', master: 'm', seats: 1 };
  const where = { name: 'l', file: '/l' };
  const { mistake: _a, given: _b, ...implicit } = parseLab(JSON.stringify(least), where);
  const { mistake: _c, given: _d, ...explicit } = parseLab(JSON.stringify({ ...least, ...defaults }), where);
  expect(explicit).toEqual(implicit);
});
