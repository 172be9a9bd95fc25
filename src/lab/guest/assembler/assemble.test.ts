import { writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { have, mustRun, tempDir } from '../../../../test/support/programs.ts';
import { isDiskError } from '../../../errors.ts';
import { seatProgram } from '../program.ts';
import { seatListing } from '../seat-asm.ts';
import { assemble } from './assemble.ts';

interface Decoded {
  readonly address: number;
  readonly length: number;
  /** Blanks squeezed; addresses in hexadecimal. */
  readonly text: string;
}

/** What GNU objdump reads in `bytes`, loaded at `origin`, from `start` to `stop`. */
async function disassemble(
  bytes: Uint8Array,
  origin: number,
  start: number,
  stop: number,
): Promise<Decoded[]> {
  await using folder = await tempDir();
  const file = folder.file('code.bin');
  writeFileSync(file, bytes);
  const flags = '-D -z -b binary -m i8086 -M intel --insn-width=12'.split(' ');
  const range = [`--adjust-vma=${origin}`, `--start-address=${start}`, `--stop-address=${stop}`];
  const output = await mustRun('objdump', [...flags, ...range, file]);
  return output.split('\n').flatMap((line) => {
    const match = /^\s*([0-9a-f]+):\t((?:[0-9a-f]{2} )+)\s*\t(.*)$/.exec(line);
    if (!match) return [];
    const text = match[3].replace(/\s+/g, ' ').trim();
    return { address: Number.parseInt(match[1], 16), length: match[2].trim().split(' ').length, text };
  });
}

/** A line of ours, and what objdump must read in its bytes. The origin is 0. */
const instructions: readonly (readonly [string, string])[] = [
  ['mov al, 0x12', 'mov al,0x12'],
  ['mov dh, 255', 'mov dh,0xff'],
  ['mov bx, 0x1234', 'mov bx,0x1234'],
  ['mov si, -1', 'mov si,0xffff'],
  ['mov edx, 0x12345678', 'mov edx,0x12345678'],
  ['mov al, ah', 'mov al,ah'],
  ['mov di, sp', 'mov di,sp'],
  ['mov ecx, ebp', 'mov ecx,ebp'],
  ['mov ds, ax', 'mov ds,ax'],
  ['mov ax, es', 'mov ax,es'],
  ['mov [0x500], ds', 'mov WORD PTR ds:0x500,ds'],
  ['mov ss, [bp + 2]', 'mov ss,WORD PTR [bp+0x2]'],
  ['mov [0x7d03], dl', 'mov BYTE PTR ds:0x7d03,dl'],
  ['mov al, [0x7d03]', 'mov al,ds:0x7d03'],
  ['mov ax, [0x46c]', 'mov ax,ds:0x46c'],
  ['mov eax, [0x46c]', 'mov eax,ds:0x46c'],
  ['mov [0x46c], ax', 'mov ds:0x46c,ax'],
  ['mov eax, [es:0x6c]', 'mov eax,es:0x6c'],
  ['mov cx, [cs:bx+si]', 'mov cx,WORD PTR cs:[bx+si]'],
  ['mov cx, [bx + di + 5]', 'mov cx,WORD PTR [bx+di+0x5]'],
  ['mov cx, [bp + si - 5]', 'mov cx,WORD PTR [bp+si-0x5]'],
  ['mov cx, [bp + di + 0x1234]', 'mov cx,WORD PTR [bp+di+0x1234]'],
  ['mov [bp], al', 'mov BYTE PTR [bp+0x0],al'],
  ['mov [di], ebx', 'mov DWORD PTR [di],ebx'],
  ['mov byte [si], 7', 'mov BYTE PTR [si],0x7'],
  ['mov word [bx], 7', 'mov WORD PTR [bx],0x7'],
  ['mov dword [bx + 127], 7', 'mov DWORD PTR [bx+0x7f],0x7'],
  ['mov word [bx + 128], 7', 'mov WORD PTR [bx+0x80],0x7'],
  ['add ax, 1', 'add ax,0x1'],
  ['add ax, 0x1234', 'add ax,0x1234'],
  ['add dx, 0x3f8', 'add dx,0x3f8'],
  ["add al, '0'", 'add al,0x30'],
  ['or bl, 0x80', 'or bl,0x80'],
  ['adc word [si], 0x1234', 'adc WORD PTR [si],0x1234'],
  ['sbb ecx, -2', 'sbb ecx,0xfffffffe'],
  ['and edi, 0xffff0000', 'and edi,0xffff0000'],
  ['sub byte [0x600], 3', 'sub BYTE PTR ds:0x600,0x3'],
  ['xor ax, ax', 'xor ax,ax'],
  ['xor edx, edx', 'xor edx,edx'],
  ['cmp bx, 0xaa55', 'cmp bx,0xaa55'],
  ['cmp ax, [0x46c]', 'cmp ax,WORD PTR ds:0x46c'],
  ['cmp [0x46c], ax', 'cmp WORD PTR ds:0x46c,ax'],
  ['cmp dword [es:di], 5', 'cmp DWORD PTR es:[di],0x5'],
  ['test al, al', 'test al,al'],
  ['test cl, 1', 'test cl,0x1'],
  ['test al, 0x20', 'test al,0x20'],
  ['test eax, 0x20', 'test eax,0x20'],
  ['test word [bx], 0x100', 'test WORD PTR [bx],0x100'],
  ['inc cx', 'inc cx'],
  ['inc dword [0x800c]', 'inc DWORD PTR ds:0x800c'],
  ['inc al', 'inc al'],
  ['dec edi', 'dec edi'],
  ['dec byte [si]', 'dec BYTE PTR [si]'],
  ['not dx', 'not dx'],
  ['neg byte [bx]', 'neg BYTE PTR [bx]'],
  ['mul bx', 'mul bx'],
  ['div ebx', 'div ebx'],
  ['push si', 'push si'],
  ['push eax', 'push eax'],
  ['push cs', 'push cs'],
  ['pop es', 'pop es'],
  ['pop bp', 'pop bp'],
  ['pusha', 'pusha'],
  ['popa', 'popa'],
  ['in al, dx', 'in al,dx'],
  ['in eax, dx', 'in eax,dx'],
  ['out dx, al', 'out dx,al'],
  ['out dx, ax', 'out dx,ax'],
  ['int 0x13', 'int 0x13'],
  ['jmp 0xf000:0xfff0', 'jmp 0xf000:0xfff0'],
  ['movsb', 'movs BYTE PTR es:[di],BYTE PTR ds:[si]'],
  ['rep movsw', 'rep movs WORD PTR es:[di],WORD PTR ds:[si]'],
  ['repe cmpsw', 'repz cmps WORD PTR ds:[si],WORD PTR es:[di]'],
  ['repne cmpsb', 'repnz cmps BYTE PTR ds:[si],BYTE PTR es:[di]'],
  ['rep stosb', 'rep stos BYTE PTR es:[di],al'],
  ['stosw', 'stos WORD PTR es:[di],ax'],
  ['lodsb', 'lods al,BYTE PTR ds:[si]'],
  ['lodsw', 'lods ax,WORD PTR ds:[si]'],
  ['ret', 'ret'],
  ['nop', 'nop'],
  ['hlt', 'hlt'],
  ['clc', 'clc'],
  ['stc', 'stc'],
  ['cli', 'cli'],
  ['sti', 'sti'],
  ['cld', 'cld'],
];

/** objdump's name for each jump of ours. */
const jumps: Readonly<Record<string, string>> = {
  jo: 'jo',
  jno: 'jno',
  jc: 'jb',
  jb: 'jb',
  jnc: 'jae',
  jae: 'jae',
  je: 'je',
  jz: 'je',
  jne: 'jne',
  jnz: 'jne',
  jna: 'jbe',
  jbe: 'jbe',
  ja: 'ja',
  js: 'js',
  jns: 'jns',
  jpe: 'jp',
  jpo: 'jnp',
  jl: 'jl',
  jge: 'jge',
  jle: 'jle',
  jg: 'jg',
  loop: 'loop',
  jcxz: 'jcxz',
  jmp: 'jmp',
  'jmp near': 'jmp',
  call: 'call',
};

const hex = (value: number): string => `0x${value.toString(16)}`;

describe.skipIf(!have('objdump'))('the assembler against objdump', () => {
  it('encodes every form', async () => {
    const program = assemble(instructions.map(([ours]) => ours).join('\n'));
    const decoded = await disassemble(program.bytes, 0, 0, program.bytes.length);
    expect(decoded.map(({ text }) => text)).toEqual(instructions.map(([, theirs]) => theirs));
    expect(decoded.map(({ address }) => address)).toEqual(program.lines.map(({ address }) => address));
  });

  it('reaches labels before and after every jump', async () => {
    const names = Object.keys(jumps);
    const listing = names.map(
      (name) =>
        `back_${name.replace(' ', '_')}: nop\n${name} back_${name.replace(' ', '_')}\n${name} fore_${name.replace(' ', '_')}\nnop\nfore_${name.replace(' ', '_')}: nop`,
    );
    const program = assemble(`org 0x7c00\n${listing.join('\n')}`);
    const decoded = await disassemble(program.bytes, 0x7c00, 0x7c00, 0x7c00 + program.bytes.length);
    const expected = names.flatMap((name) => {
      const at = (side: string) => hex(program.symbols.get(`${side}_${name.replace(' ', '_')}`)!);
      return ['nop', `${jumps[name]} ${at('back')}`, `${jumps[name]} ${at('fore')}`, 'nop', 'nop'];
    });
    expect(decoded.map(({ text }) => text)).toEqual(expected);
  });

  it('assembles the seat as it reads', async () => {
    const { bytes, origin, lines, symbols } = seatProgram();
    const source = seatListing.split('\n');
    const isCode = (mnemonic: string) => !['db', 'dw', 'dd', 'times'].includes(mnemonic);
    let compared = 0;
    for (let i = 0; i < lines.length; ) {
      // A stretch of code between data: objdump would read data as instructions.
      let end = i;
      while (end < lines.length && isCode(lines[end].mnemonic)) end++;
      if (end > i) {
        const stretch = lines.slice(i, end);
        const last = stretch[stretch.length - 1];
        const decoded = await disassemble(
          bytes,
          origin,
          stretch[0].address,
          last.address + last.bytes.length,
        );
        expect(decoded.map(({ address, length }) => [address, length])).toEqual(
          stretch.map((line) => [line.address, line.bytes.length]),
        );
        for (const [j, line] of stretch.entries()) {
          const [theirs, operand] = decoded[j].text.split(' ');
          expect(theirs, source[line.line - 1]).toBe(aliases[line.mnemonic] ?? line.mnemonic);
          const label = /^\s*(?:j\w+|call|loop)\s+(?:near\s+)?([a-z_]\w*)\s*(;.*)?$/.exec(
            source[line.line - 1],
          );
          if (label) expect(operand, source[line.line - 1]).toBe(hex(symbols.get(label[1])!));
          compared++;
        }
      }
      i = Math.max(end, i + 1);
    }
    expect(compared).toBeGreaterThan(120);
  });
});

const aliases: Readonly<Record<string, string>> = {
  ...jumps,
  lodsb: 'lods',
  lodsw: 'lods',
  repe: 'repz',
};

describe('the assembler', () => {
  it('lays out data, padding, constants and local labels', () => {
    const program = assemble(`
        bits 16
        org 0x100
SIZE    equ 2 * (3 + 4) - 14 / 7   ; 12
one:    db 1, 'a;b', 0             ; a semicolon in quotes is text
.local: dw .local, two.local
two:
.local: dd SIZE, 'COW', -1
        times 4 - 2 db 0x90
        times SIZE - ($ - $$ - 16) % 4 db 0
`);
    expect(Buffer.from(program.bytes.subarray(0, 23)).toString('hex')).toBe(
      '01613b6200' + '05010901' + '0c000000' + '434f5700' + 'ffffffff' + '9090',
    );
    expect(program.origin).toBe(0x100);
    expect(program.symbols.get('SIZE')).toBe(12);
    expect(program.symbols.get('two.local')).toBe(0x109);
    expect(program.bytes.length).toBe(23 + 12 - ((23 - 16) % 4));
  });

  it('chooses the same encoding in both passes when a name is defined later', () => {
    const program = assemble('add bx, LATER\nafter: nop\nLATER equ 5');
    expect([...program.bytes]).toEqual([0x81, 0xc3, 5, 0, 0x90]);
    expect(program.symbols.get('after')).toBe(4);
  });

  it.each([
    ['nop\nfnord ax', "line 2: unknown mnemonic 'fnord'"],
    ['mov ax, bl', "line 1: operands of 'mov' differ in size"],
    ['mov [bx], 1', "line 1: say byte, word or dword: nothing tells the size of 'mov'"],
    ['mov al, 256', 'line 1: 256 does not fit 8 bits'],
    ['mov al, -129', 'line 1: -129 does not fit 8 bits'],
    ['mov ax', "line 1: 'mov' does not take these operands"],
    ['mov 5, ax', "line 1: 'mov' does not take these operands"],
    ['mov cs, ax', "line 1: 'cs' is set by a far jump only"],
    ['mov ds, al', "line 1: operands of 'mov' differ in size"],
    ['mov ds, 5', "line 1: 'mov' does not take these operands"],
    ['mov ax, [ax]', "line 1: 'ax' cannot address memory in 16-bit code"],
    ['mov ax, [bx+bp]', "line 1: no 16-bit address mode for '[bx+bp]'"],
    ['mov ax, [bx', "line 1: ']' is missing in '[bx'"],
    ['mov ax, []', "line 1: cannot read the address '[]'"],
    ['mov ax, byte 5', "line 1: 'byte' is for operands in brackets, not for '5'"],
    ['mov ax, nowhere', "line 1: undefined symbol 'nowhere'"],
    ['mov ax, (1', "line 1: ')' is missing in '(1'"],
    ['mov ax, 1 2', "line 1: cannot read '1 2'"],
    ['mov ax, 12x', "line 1: cannot read the number '12x'"],
    ['mov ax, 1 +', "line 1: an operand is missing in '1 +'"],
    ['mov ax, 1 / 0', "line 1: division by zero in '1 / 0'"],
    ['mov ax,, bx', 'line 1: an operand is missing'],
    ['a: nop\na: nop', "line 2: 'a' is defined twice"],
    ['hlt: nop', "line 1: 'hlt' is an instruction, not a name"],
    ['1a: nop', "line 1: '1a' cannot be a label"],
    ['equ 5', "line 1: 'equ' needs a name before it"],
    ['a equ b\nb equ 1', "line 1: 'equ' needs names that are defined above it"],
    ['times 3 nop', "line 1: 'times' takes a count and db, dw or dd"],
    ['times -3 db 0', "line 1: 'times' cannot repeat -3 times: the code before it is too long"],
    ['times 70000 db 0', "line 1: 'times' cannot repeat 70000 times"],
    ['times 65536 db 0\nnop', 'line 2: the program passes 64 KiB'],
    ["db 'unfinished", 'line 1: a quotation mark is missing'],
    ["db 'ä'", "line 1: 'ä' is not ASCII"],
    ['db', 'line 1: a value is missing'],
    ['nop\norg 5', "line 2: 'org' stands before everything else"],
    ['bits 32', 'line 1: only 16-bit code is known'],
    ['rep nop', "line 1: 'rep' stands before a string instruction"],
    ['push al', "line 1: 'push' does not take these operands"],
    ['pop cs', "line 1: 'cs' cannot be popped"],
    ['in al, 0x60', "line 1: 'in' does not take these operands"],
    ['out al, dx', "line 1: 'out' does not take these operands"],
    ['ret 5', "line 1: 'ret' does not take these operands"],
    ['jc near a\na: nop', "line 1: 'jc' does not take these operands"],
    ['jc a\ntimes 128 db 0\na: nop', "line 1: 'a' is 128 bytes away: too far for a short jump"],
    ['a: times 127 db 0\njc a', "line 2: 'a' is -129 bytes away: too far for a short jump"],
  ])('refuses %j', (listing, message) => {
    let thrown: unknown;
    try {
      assemble(listing);
    } catch (error) {
      thrown = error;
    }
    expect(isDiskError(thrown, 'bad-argument')).toBe(true);
    expect((thrown as Error).message).toBe(message);
  });
});
