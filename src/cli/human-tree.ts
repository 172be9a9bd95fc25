import { type JsonValue, qdictOrder } from './json.ts';

/** A value as lines for people, four blanks a level, as qemu-img prints what is special to a format. */
export function humanTree(value: JsonValue, level: number): string[] {
  const indent = '    '.repeat(level);
  return members(value).flatMap(([label, member]) =>
    isComposite(member)
      ? [`${indent}${label}:`, ...humanTree(member, level + 1)]
      : [`${indent}${label}: ${String(member)}`],
  );
}

function members(value: JsonValue): [string, JsonValue][] {
  if (Array.isArray(value)) return value.map((item, index) => [`[${index}]`, item]);
  const object = value as { readonly [key: string]: JsonValue | undefined };
  return qdictOrder(Object.keys(object).filter((key) => object[key] !== undefined)).map((key) => [
    key.replaceAll('-', ' '),
    object[key] as JsonValue,
  ]);
}

function isComposite(value: JsonValue): boolean {
  return typeof value === 'object' && value !== null;
}
