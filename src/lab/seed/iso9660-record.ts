/** A directory record (ECMA-119, 9.1) as a value. */
export interface DirectoryRecord {
  readonly name: readonly number[];
  /** Sector. */
  readonly at: number;
  /** Bytes. */
  readonly length: number;
  readonly date: Date;
  readonly folder: boolean;
  /** The system use area. */
  readonly system?: readonly number[];
}

/** ECMA-119, 9.1.5: years since 1900, month, day, hour, minute, second, zone (UTC). */
export function recordDate(date: Date): readonly number[] {
  return [
    ...[date.getUTCFullYear() - 1900, date.getUTCMonth() + 1, date.getUTCDate()],
    ...[date.getUTCHours(), date.getUTCMinutes(), date.getUTCSeconds(), 0],
  ];
}

/** Writes fields one after the other. */
export class RecordWriter {
  at = 0;
  readonly #into: Uint8Array;
  readonly #view: DataView;

  constructor(into: Uint8Array) {
    this.#into = into;
    this.#view = new DataView(into.buffer, into.byteOffset, into.byteLength);
  }

  /** Bytes of a record: identifiers of an even length are padded, and so is the whole. */
  static lengthOf(name: readonly number[], system: readonly number[] = []): number {
    const plain = 33 + name.length;
    const length = plain + (plain % 2) + system.length;
    return length + (length % 2);
  }

  /** `length`: the field's, the rest of it stays zero. */
  bytes(bytes: readonly number[], length = bytes.length): void {
    this.#into.set(bytes, this.at);
    this.at += length;
  }

  skip(length: number): void {
    this.at += length;
  }

  little32(value: number): void {
    this.#view.setUint32(this.at, value, true);
    this.at += 4;
  }

  big32(value: number): void {
    this.#view.setUint32(this.at, value, false);
    this.at += 4;
  }

  /** ECMA-119, 7.3.3: both byte orders. */
  both32(value: number): void {
    this.little32(value);
    this.big32(value);
  }

  both16(value: number): void {
    this.#view.setUint16(this.at, value, true);
    this.#view.setUint16(this.at + 2, value, false);
    this.at += 4;
  }

  record({ name, at, length, date, folder, system = [] }: DirectoryRecord): void {
    const end = this.at + RecordWriter.lengthOf(name, system);
    this.bytes([RecordWriter.lengthOf(name, system), 0]);
    this.both32(at);
    this.both32(length);
    this.bytes(recordDate(date), 7);
    this.bytes([folder ? 2 : 0, 0, 0]);
    this.both16(1);
    this.bytes([name.length, ...name]);
    this.at += this.at % 2;
    this.bytes(system);
    this.at = end;
  }
}
