/** Instructions of WebAssembly (core specification, chapter 5) as far as the modules written here use them. */
export const op = {
  block: [0x02, 0x40],
  loop: [0x03, 0x40],
  ifThen: [0x04, 0x40],
  end: [0x0b],
  branch: (depth: number) => [0x0c, ...unsigned(depth)],
  branchIf: (depth: number) => [0x0d, ...unsigned(depth)],
  get: (local: number) => [0x20, ...unsigned(local)],
  set: (local: number) => [0x21, ...unsigned(local)],
  tee: (local: number) => [0x22, ...unsigned(local)],
  select: [0x1b],
  i32Const: (value: number) => [0x41, ...signed(value)],
  i32Add: [0x6a],
  i32Subtract: [0x6b],
  i32And: [0x71],
  i32ShiftRightUnsigned: [0x76],
  i32EqualZero: [0x45],
  i32NotEqual: [0x47],
  i32LessSigned: [0x48],
  i32LessUnsigned: [0x49],
  i32NotLessUnsigned: [0x4f],
  v128Load: (offset: number) => [0xfd, ...unsigned(0), 4, ...unsigned(offset)],
  v128Store: (offset: number) => [0xfd, ...unsigned(11), 4, ...unsigned(offset)],
  v128Const: (bytes: readonly number[]) => [0xfd, ...unsigned(12), ...bytes],
  shuffle: (lanes: readonly number[]) => [0xfd, ...unsigned(13), ...lanes],
  v128And: [0xfd, ...unsigned(78)],
  v128Or: [0xfd, ...unsigned(80)],
  v128Xor: [0xfd, ...unsigned(81)],
  v128AnyTrue: [0xfd, ...unsigned(83)],
  i32x4ShiftRightSigned: [0xfd, ...unsigned(172)],
  i64x2Add: [0xfd, ...unsigned(206)],
} as const;

export const i32 = 0x7f;
export const v128 = 0x7b;

/** The types of a function's parameters, results and further locals, and its instructions. */
export interface WasmFunction {
  readonly name: string;
  readonly parameters: readonly number[];
  readonly results?: readonly number[];
  readonly locals: readonly number[];
  readonly code: readonly (readonly number[])[];
}

/**
 * The function, working in `memory`. Undefined where the runtime lacks an instruction of it, or a page's policy forbids
 * WebAssembly.
 */
export function compile<Compiled>(one: WasmFunction, memory: WebAssembly.Memory): Compiled | undefined {
  const { buffer } = memory;
  const isShared = typeof SharedArrayBuffer !== 'undefined' && buffer instanceof SharedArrayBuffer;
  try {
    const module = new WebAssembly.Module(encodeModule(one, buffer.byteLength / pageBytes, isShared));
    return new WebAssembly.Instance(module, { host: { memory } }).exports[one.name] as Compiled;
  } catch {
    return undefined;
  }
}

const pageBytes = 65536;

/** The bytes of a module with one function, over a memory of `pages` 64 KiB pages that it imports as `host.memory`. */
function encodeModule(one: WasmFunction, pages: number, shared: boolean): Uint8Array<ArrayBuffer> {
  const { parameters, results = [] } = one;
  const locals = one.locals.flatMap((type) => [1, type]);
  const body = [one.locals.length, ...locals, ...one.code.flat(), ...op.end];
  return new Uint8Array([
    ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, [1, 0x60, parameters.length, ...parameters, results.length, ...results]),
    ...section(2, [
      1,
      ...name('host'),
      ...name('memory'),
      2,
      shared ? 3 : 1,
      ...unsigned(pages),
      ...unsigned(pages),
    ]),
    ...section(3, [1, 0]),
    ...section(7, [1, ...name(one.name), 0, 0]),
    ...section(10, [1, ...unsigned(body.length), ...body]),
  ]);
}

function section(id: number, content: readonly number[]): number[] {
  return [id, ...unsigned(content.length), ...content];
}

function name(text: string): number[] {
  return [text.length, ...new TextEncoder().encode(text)];
}

/** LEB128. */
function unsigned(value: number): number[] {
  const bytes: number[] = [];
  let left = value;
  for (; left > 127; left = Math.floor(left / 128)) bytes.push((left % 128) + 128);
  return [...bytes, left];
}

function signed(value: number): number[] {
  const bytes: number[] = [];
  let left = value;
  for (; left < -64 || left > 63; left >>= 7) bytes.push((left & 127) | 128);
  return [...bytes, left & 127];
}
