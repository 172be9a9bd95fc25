/** A long option: its name, whether it takes an argument, and the key that `next()` answers for it. */
export interface LongOption {
  readonly name: string;
  readonly argument: 'none' | 'required' | 'optional';
  readonly key: string;
}

/** What `next()` found. `key` is the short letter or the long option's key; '?' unknown, ':' argument missing. */
export interface FoundOption {
  readonly key: string;
  readonly value?: string;
}

const noArgument = 0;
const requiredArgument = 1;
const optionalArgument = 2;

/**
 * glibc's `getopt_long` with its permutation of `argv`, clusters (`-qf raw`), joined arguments (`-fraw`,
 * `--output=json`), abbreviations (`--out json`) and `--`. Nothing is printed, as with a leading ':' in
 * the option string: the caller words what is wrong, and like qemu-img it does so from `argv[optind - 1]`, or by `complaint`. So `optind`
 * moves exactly as glibc's does, also inside a cluster.
 *
 * `short` is getopt's option string (`'hf:U'`); a leading '+' stops at the first word that is no option.
 * `argv[0]` is the program's or the verb's name and is never an option. `argv` is permuted in place.
 */
export class Getopt {
  /** Index of the next word to look at; after the last option, of the first operand. */
  optind = 1;
  /** What is wrong with the option that `next()` answered '?' or ':' for, as getopt itself words it. */
  complaint = '';
  readonly argv: string[];
  private readonly arguments_ = new Map<string, number>();
  private readonly long: readonly LongOption[];
  private readonly requireOrder: boolean;
  /** Rest of the cluster being read. */
  private nextCharacter = '';
  /** Operands that were skipped lie in [firstNonOption, lastNonOption). */
  private firstNonOption = 1;
  private lastNonOption = 1;

  constructor(argv: readonly string[], short: string, long: readonly LongOption[]) {
    this.argv = [...argv];
    this.long = long;
    this.requireOrder = short.startsWith('+');
    const letters = short.replace(/^[+:-]*/, '');
    for (let i = 0; i < letters.length; i++) {
      const letter = letters[i];
      let kind = noArgument;
      if (letters[i + 1] === ':') {
        kind = letters[i + 2] === ':' ? optionalArgument : requiredArgument;
        i += kind;
      }
      this.arguments_.set(letter, kind);
    }
  }

  /** The next option, or undefined when only operands are left (`argv.slice(optind)`). */
  next(): FoundOption | undefined {
    if (this.nextCharacter === '') {
      if (!this.advance()) return undefined;
      const word = this.argv[this.optind];
      if (word.startsWith('--')) return this.readLong(word.slice(2));
      this.nextCharacter = word.slice(1);
    }
    return this.readShort();
  }

  /** The words after the options. */
  operands(): string[] {
    return this.argv.slice(this.optind);
  }

  /** The word that the last `next()` ended in, as qemu-img names it in its messages. */
  get shown(): string {
    return this.argv[this.optind - 1];
  }

  /** Moves `optind` to the next word with an option, permuting operands behind it. False: none is left. */
  private advance(): boolean {
    const { argv } = this;
    if (this.lastNonOption > this.optind) this.lastNonOption = this.optind;
    if (this.firstNonOption > this.optind) this.firstNonOption = this.optind;
    if (!this.requireOrder) {
      if (this.firstNonOption !== this.lastNonOption && this.lastNonOption !== this.optind) this.exchange();
      else if (this.lastNonOption !== this.optind) this.firstNonOption = this.optind;
      while (this.optind < argv.length && isOperand(argv[this.optind])) this.optind++;
      this.lastNonOption = this.optind;
    }
    if (this.optind !== argv.length && argv[this.optind] === '--') {
      this.optind++;
      if (this.firstNonOption !== this.lastNonOption && this.lastNonOption !== this.optind) this.exchange();
      else if (this.firstNonOption === this.lastNonOption) this.firstNonOption = this.optind;
      this.lastNonOption = argv.length;
      this.optind = argv.length;
    }
    if (this.optind === argv.length) {
      if (this.firstNonOption !== this.lastNonOption) this.optind = this.firstNonOption;
      return false;
    }
    return !isOperand(argv[this.optind]);
  }

  /** Swaps the skipped operands with the options that were read after them. */
  private exchange(): void {
    const { argv, firstNonOption: first, lastNonOption: middle, optind: last } = this;
    const options = argv.slice(middle, last);
    argv.splice(first, last - first, ...options, ...argv.slice(first, middle));
    this.firstNonOption += last - middle;
    this.lastNonOption = last;
  }

  private readShort(): FoundOption {
    const letter = this.nextCharacter[0];
    this.nextCharacter = this.nextCharacter.slice(1);
    if (this.nextCharacter === '') this.optind++;
    const kind = letter === ':' || letter === ';' ? undefined : this.arguments_.get(letter);
    if (kind === undefined) return this.wrong('?', `invalid option -- '${letter}'`);
    if (kind === noArgument) return { key: letter };
    if (this.nextCharacter !== '') {
      const value = this.nextCharacter;
      this.nextCharacter = '';
      this.optind++;
      return { key: letter, value };
    }
    if (kind === optionalArgument) return { key: letter };
    if (this.optind === this.argv.length) {
      return this.wrong(':', `option requires an argument -- '${letter}'`);
    }
    return { key: letter, value: this.argv[this.optind++] };
  }

  private readLong(text: string): FoundOption {
    const equals = text.indexOf('=');
    const name = equals < 0 ? text : text.slice(0, equals);
    const joined = equals < 0 ? undefined : text.slice(equals + 1);
    const candidates = this.matchLong(name);
    const [found] = candidates;
    this.optind++;
    if (found === undefined) return this.wrong('?', `unrecognized option '--${text}'`);
    if (candidates.some((option) => option.key !== found.key || option.argument !== found.argument)) {
      const names = candidates.map((option) => `'--${option.name}'`).join(' ');
      return this.wrong('?', `option '--${text}' is ambiguous; possibilities: ${names}`);
    }
    if (joined !== undefined) {
      return found.argument === 'none'
        ? this.wrong('?', `option '--${found.name}' doesn't allow an argument`)
        : { key: found.key, value: joined };
    }
    if (found.argument !== 'required') return { key: found.key };
    if (this.optind >= this.argv.length) {
      return this.wrong(':', `option '--${found.name}' requires an argument`);
    }
    return { key: found.key, value: this.argv[this.optind++] };
  }

  private wrong(key: '?' | ':', complaint: string): FoundOption {
    this.complaint = complaint;
    return { key };
  }

  /** An exact match, else the options that begin so (several that mean the same count as one). */
  private matchLong(name: string): LongOption[] {
    const exact = this.long.find((option) => option.name === name);
    return exact ? [exact] : this.long.filter((option) => option.name.startsWith(name));
  }
}

function isOperand(word: string): boolean {
  return word[0] !== '-' || word.length === 1;
}
