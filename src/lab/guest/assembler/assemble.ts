import { type Encoding, encodeInstruction, isMnemonic, littleEndian, repeatPrefixes } from './encode.ts';
import { type Definition, evaluate, type Scope } from './expression.ts';
import { asmError } from './fault.ts';
import { parseOperand, type Width } from './operand.ts';
import { parseLine, type Statement } from './statement.ts';

/** One line of the listing that made bytes. */
export interface AssembledLine {
  /** From 1. */
  readonly line: number;
  /** Lower case; `db`, `times` and the like for data. */
  readonly mnemonic: string;
  readonly address: number;
  readonly bytes: Uint8Array;
}

export interface Program {
  readonly bytes: Uint8Array;
  /** Address of the first byte (`org`). */
  readonly origin: number;
  /** Labels and constants; a local label as `label.local`. */
  readonly symbols: ReadonlyMap<string, number>;
  readonly lines: readonly AssembledLine[];
}

/** No listing of ours comes near it; a mistaken `times` must not fill memory. */
const maxBytes = 65536;

const dataWidths: Readonly<Record<string, Width>> = { db: 8, dw: 16, dd: 32 };

/**
 * Assembles a listing in NASM's syntax for 16-bit x86: labels, local labels, `equ`, `org`, `bits 16`, `db`,
 * `dw`, `dd`, `times`, and the instructions that `encode.ts` lists. Conditional jumps are short. Strict: what it
 * does not know is a `bad-argument` whose message begins with the line's number.
 */
export function assemble(listing: string): Program {
  const statements = listing.split('\n').flatMap((text, i) => parseLine(text, i + 1) ?? []);
  const assembly = new Assembly(statements);
  assembly.pass(false);
  assembly.pass(true);
  return assembly.program();
}

class Assembly {
  private readonly symbols = new Map<string, Definition>();
  private lines: AssembledLine[] = [];
  private origin = 0;
  private address = 0;
  private scopeLabel = '';
  private final = false;
  /** Something has an address already: `org` would come too late. */
  private addressUsed = false;

  constructor(private readonly statements: readonly Statement[]) {}

  pass(final: boolean): void {
    this.final = final;
    this.lines = [];
    this.address = this.origin;
    this.scopeLabel = '';
    this.addressUsed = false;
    for (const [index, statement] of this.statements.entries()) this.statement(statement, index);
  }

  program(): Program {
    const length = this.address - this.origin;
    const bytes = new Uint8Array(length);
    for (const line of this.lines) bytes.set(line.bytes, line.address - this.origin);
    const symbols = new Map([...this.symbols].map(([name, symbol]) => [name, symbol.value]));
    return { bytes, origin: this.origin, symbols, lines: this.lines };
  }

  private statement(statement: Statement, index: number): void {
    const { line, label, mnemonic, operands } = statement;
    if (mnemonic === 'equ' && label === undefined) throw asmError(line, "'equ' needs a name before it");
    if (label !== undefined) {
      if (isMnemonic(label.toLowerCase())) throw asmError(line, `'${label}' is an instruction, not a name`);
      if (!label.startsWith('.') && mnemonic !== 'equ') this.scopeLabel = label;
      const value = mnemonic === 'equ' ? this.evaluate(statement, index, operands).value : this.address;
      this.define(this.fullName(label), value, index, line);
      this.addressUsed ||= mnemonic !== 'equ';
    }
    if (mnemonic === undefined || mnemonic === 'equ') return;
    const bytes = this.bytes(statement, index, mnemonic, operands);
    if (!bytes) return;
    if (this.address - this.origin + bytes.length > maxBytes)
      throw asmError(line, 'the program passes 64 KiB');
    this.lines.push({ line, mnemonic, address: this.address, bytes: Uint8Array.from(bytes) });
    this.address += bytes.length;
    this.addressUsed = true;
  }

  private define(name: string, value: number, index: number, line: number): void {
    const before = this.symbols.get(name);
    if (before && before.definedAt !== index) throw asmError(line, `'${name}' is defined twice`);
    this.symbols.set(name, { value, definedAt: index });
  }

  private fullName(name: string): string {
    return name.startsWith('.') ? this.scopeLabel + name : name;
  }

  private scope(line: number, index: number): Scope {
    return {
      line,
      statement: index,
      here: this.address,
      start: this.origin,
      final: this.final,
      lookup: (name) => this.symbols.get(this.fullName(name)),
    };
  }

  private evaluate(statement: Statement, index: number, operands: readonly string[]): { value: number } {
    if (operands.length !== 1) throw asmError(statement.line, `'${statement.mnemonic}' takes one value`);
    const { value, known } = evaluate(operands[0], this.scope(statement.line, index));
    if (!known)
      throw asmError(statement.line, `'${statement.mnemonic}' needs names that are defined above it`);
    return { value };
  }

  /** The bytes of a statement; undefined for one that makes none. */
  private bytes(
    statement: Statement,
    index: number,
    mnemonic: string,
    operands: readonly string[],
  ): readonly number[] | undefined {
    const { line } = statement;
    if (mnemonic === 'bits') {
      if (operands.join() !== '16') throw asmError(line, 'only 16-bit code is known');
      return undefined;
    }
    if (mnemonic === 'org') {
      if (this.addressUsed) {
        throw asmError(line, "'org' stands before everything else");
      }
      this.origin = this.evaluate(statement, index, operands).value;
      this.address = this.origin;
      return undefined;
    }
    if (mnemonic === 'times') return this.repeat(statement, index);
    const width = dataWidths[mnemonic];
    if (width) return this.data(width, operands, line, index);
    const prefix = repeatPrefixes[mnemonic];
    if (prefix !== undefined) {
      if (!/^(movs|cmps|stos|lods)[bw]$/i.test(operands.join())) {
        throw asmError(line, `'${mnemonic}' stands before a string instruction`);
      }
      return [prefix, ...this.instruction(operands[0].toLowerCase(), [], line, index)];
    }
    return this.instruction(mnemonic, operands, line, index);
  }

  private instruction(mnemonic: string, operands: readonly string[], line: number, index: number): number[] {
    const scope = this.scope(line, index);
    const encoding: Encoding = {
      line,
      mnemonic,
      operands: operands.map((text) => parseOperand(text, line)),
      here: this.address,
      final: this.final,
      value: (text) => evaluate(text, scope),
    };
    return encodeInstruction(encoding);
  }

  private data(width: Width, operands: readonly string[], line: number, index: number): number[] {
    if (operands.length === 0) throw asmError(line, 'a value is missing');
    const scope = this.scope(line, index);
    return operands.flatMap((text) => {
      const quoted = /^'([^']*)'$/.exec(text);
      if (quoted && width === 8) {
        return Array.from(quoted[1], (character) => {
          const code = character.codePointAt(0)!;
          if (code > 0x7f) throw asmError(line, `'${character}' is not ASCII`);
          return code;
        });
      }
      return littleEndian(evaluate(text, scope).value, width, line, this.final);
    });
  }

  /** `times COUNT db VALUE`: padding. */
  private repeat(statement: Statement, index: number): number[] {
    const { line, operands } = statement;
    const match = /^(.*?)\s+(db|dw|dd)\s+(\S.*)$/is.exec(operands.join(', '));
    if (!match) throw asmError(line, "'times' takes a count and db, dw or dd");
    const count = this.evaluate(statement, index, [match[1]]).value;
    if (!Number.isInteger(count) || count < 0 || count > maxBytes) {
      throw asmError(
        line,
        `'times' cannot repeat ${count} times${count < 0 ? ': the code before it is too long' : ''}`,
      );
    }
    const unit = this.data(dataWidths[match[2].toLowerCase()], [match[3]], line, index);
    return Array.from({ length: count }, () => unit).flat();
  }
}
