import { DiskError } from '../errors.ts';

/** An element as it was written. Names are without their prefix: OVF's schemas tell by name alone what is meant. */
export interface XmlElement {
  readonly name: string;
  readonly attributes: ReadonlyMap<string, string>;
  readonly children: readonly XmlElement[];
  /** Its own text, without that of its children. */
  readonly text: string;
}

const maxDepth = 64;
const maxElements = 100_000;
const nameForm = /[A-Za-z_][\w.-]*(?::[A-Za-z_][\w.-]*)?/y;
const attributeForm = /\s+([A-Za-z_][\w.-]*(?::[A-Za-z_][\w.-]*)?)\s*=\s*(?:"([^"<]*)"|'([^'<]*)')/y;
const tagEnd = /\s*(\/?)>/y;
const closing = /<\/([A-Za-z_][\w.-]*(?::[A-Za-z_][\w.-]*)?)\s*>/y;
const named: Readonly<Record<string, string>> = { lt: '<', gt: '>', amp: '&', quot: '"', apos: "'" };

/**
 * Reads a document as far as OVF descriptors need it. A document type declaration is refused, and with it every entity
 * of the document's own: nothing expands, nothing is fetched. Throws `corrupt` with the offset in the text.
 */
export function parseXml(text: string, path: string): XmlElement {
  const fail = (at: number, why: string) =>
    new DiskError('corrupt', `The XML is wrong at character ${at}: ${why}`, {
      path,
      offset: at,
      field: 'xml',
    });
  const open: {
    name: string;
    raw: string;
    attributes: Map<string, string>;
    children: XmlElement[];
    text: string;
  }[] = [];
  let root: XmlElement | undefined;
  let elements = 0;
  let at = text.startsWith('\ufeff') ? 1 : 0;

  const match = (form: RegExp): RegExpExecArray | null => {
    form.lastIndex = at;
    const found = form.exec(text);
    if (found) at += found[0].length;
    return found;
  };
  const skipTo = (mark: string, what: string): string => {
    const end = text.indexOf(mark, at);
    if (end < 0) throw fail(at, `${what} does not end`);
    const skipped = text.slice(at, end);
    at = end + mark.length;
    return skipped;
  };
  const decode = (raw: string, from: number): string =>
    raw.replace(/&([^;&]{0,12});?/g, (whole, entity: string) => {
      const number = /^#(?:x([0-9a-f]{1,6})|(\d{1,7}))$/i.exec(entity);
      const code = number ? Number.parseInt(number[1] ?? number[2], number[1] ? 16 : 10) : 0;
      if (number && code > 0 && code <= 0x10ffff) return String.fromCodePoint(code);
      const known = whole.endsWith(';') ? named[entity] : undefined;
      if (known === undefined) throw fail(from, `the entity ${JSON.stringify(whole)} is not known`);
      return known;
    });
  const close = () => {
    const { name, attributes, children, text: content } = open.pop()!;
    const element = { name, attributes, children, text: content };
    const parent = open.at(-1);
    if (parent) parent.children.push(element);
    else root = element;
  };

  while (at < text.length) {
    const next = text.indexOf('<', at);
    const end = next < 0 ? text.length : next;
    const between = text.slice(at, end);
    const parent = open.at(-1);
    if (parent) parent.text += decode(between, at);
    else if (between.trim() !== '') throw fail(at, 'text outside of the document');
    at = end;
    if (next < 0) break;
    if (text.startsWith('<!--', at)) skipTo('-->', 'a comment');
    else if (text.startsWith('<?', at)) skipTo('?>', 'an instruction');
    else if (text.startsWith('<![CDATA[', at) && parent) {
      at += 9;
      parent.text += skipTo(']]>', 'a section');
    } else if (text.startsWith('<!', at)) throw fail(at, 'a document type declaration is not accepted');
    else if (text.startsWith('</', at)) {
      const start = at;
      const found = match(closing);
      if (!found || found[1] !== parent?.raw) throw fail(start, 'an element is closed that is not open');
      close();
    } else {
      const start = at++;
      const raw = match(nameForm)?.[0];
      if (raw === undefined || root) throw fail(start, 'an element is not due here');
      if (open.length >= maxDepth || ++elements > maxElements)
        throw fail(start, 'it is too deep or too long');
      const attributes = new Map<string, string>();
      const seen = new Set<string>();
      for (let found = match(attributeForm); found; found = match(attributeForm)) {
        const key = found[1].replace(/^(?!xmlns:)[^:]*:/, '');
        if (seen.has(found[1])) throw fail(start, `the attribute ${found[1]} is there twice`);
        seen.add(found[1]);
        // Of several of that name in vocabularies of their own, OVF's is the one.
        if (!attributes.has(key) || found[1].startsWith('ovf:')) {
          attributes.set(key, decode(found[2] ?? found[3] ?? '', start));
        }
      }
      const tag = match(tagEnd);
      if (!tag) throw fail(at, 'a tag does not end');
      open.push({ name: raw.replace(/^[^:]*:/, ''), raw, attributes, children: [], text: '' });
      if (tag[1] === '/') close();
    }
  }
  if (!root || open.length > 0) throw fail(text.length, 'the document ends too early');
  return root;
}

/** Children of that name. */
export function childrenOf(element: XmlElement | undefined, name: string): readonly XmlElement[] {
  return element?.children.filter((child) => child.name === name) ?? [];
}

/** The text of the first child of that name, without blanks around it; undefined where it is empty or missing. */
export function childText(element: XmlElement | undefined, name: string): string | undefined {
  const text = childrenOf(element, name)[0]?.text.trim();
  return text === '' ? undefined : text;
}
