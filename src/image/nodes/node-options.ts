/** A value of a node's option: text from a command line, or what JSON wrote. Numbers keep what JSON can hold. */
export type NodeValue = string | number | bigint | boolean | null;

/** A nested form of the options, as `json:{…}` writes it. */
export type NodeTree = { readonly [key: string]: NodeValue | NodeTree };

/**
 * The description of a node, and of the nodes that it stands on: QEMU's block options, flat, with the names of nested
 * nodes before a dot (`file.driver`, `backing.file.filename`). An immutable value; the three ways to write it
 * are `parseImageOptions`, `parseJsonName` and plain names (`nodeOfName`).
 */
export class NodeOptions {
  static readonly none = new NodeOptions();
  readonly #values: ReadonlyMap<string, NodeValue>;

  constructor(values: Iterable<readonly [string, NodeValue]> = []) {
    this.#values = new Map(values);
  }

  get size(): number {
    return this.#values.size;
  }

  has(name: string): boolean {
    return this.#values.has(name);
  }

  get(name: string): NodeValue | undefined {
    return this.#values.get(name);
  }

  /** The value where it is a text; a number or a boolean of JSON is none. */
  text(name: string): string | undefined {
    const value = this.#values.get(name);
    return typeof value === 'string' ? value : undefined;
  }

  entries(): IterableIterator<[string, NodeValue]> {
    return new Map(this.#values).entries();
  }

  with(name: string, value: NodeValue): NodeOptions {
    return new NodeOptions([...this.#values, [name, value]]);
  }

  without(...names: readonly string[]): NodeOptions {
    return new NodeOptions([...this.#values].filter(([name]) => !names.includes(name)));
  }

  /** The options of the nested node `name`, their prefix taken off. */
  child(name: string): NodeOptions {
    const prefix = `${name}.`;
    return new NodeOptions(
      [...this.#values]
        .filter(([key]) => key.startsWith(prefix))
        .map(([key, value]) => [key.slice(prefix.length), value]),
    );
  }

  /** What is left without the nested node `name`: neither a reference to one nor its options. */
  withoutChild(name: string): NodeOptions {
    const prefix = `${name}.`;
    return new NodeOptions([...this.#values].filter(([key]) => key !== name && !key.startsWith(prefix)));
  }

  /** These, and of `other` those that are not among them. */
  or(other: NodeOptions): NodeOptions {
    return new NodeOptions([...other.entries(), ...this.#values]);
  }
}
