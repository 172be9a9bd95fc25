import { DOMImplementation, XMLSerializer } from '@xmldom/xmldom';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { documentText, fill, type Node, node, text } from './xml-node.ts';

/** What an XML library makes of the same value. */
function serialized(value: Node): string {
  const document = new DOMImplementation().createDocument(null, value.name, null);
  fill(document, document.documentElement!, value, 1);
  return `${new XMLSerializer().serializeToString(document)}\n`;
}

const name = fc.stringMatching(/^[a-z][a-z_]{0,5}$/);
const content = fc.oneof(
  fc.string({ unit: fc.constantFrom('a', ' ', '<', '>', '&', '"', "'", ']]>', 'ü', '🐄', '&amp;') }),
  fc.integer(),
);
const attributes = fc.dictionary(name, content, { maxKeys: 3, noNullPrototype: true });
const { tree } = fc.letrec<{ tree: Node }>((tie) => ({
  tree: fc.oneof(
    { maxDepth: 4 },
    fc.tuple(name, content, attributes).map(([key, value, given]) => text(key, value, given)),
    fc.tuple(name, attributes).map(
      ([key, given]): Node => ({
        ...node(`cow:${key}`, given),
        namespace: 'urn:x-cow:1&2',
      }),
    ),
    fc
      .tuple(name, attributes, fc.array(tie('tree'), { maxLength: 4 }))
      .map(([key, given, children]) => node(key, given, ...children)),
  ),
}));

it('comes to the text that an XML library serializes', () => {
  fc.assert(
    fc.property(tree, (inner) => {
      const value = node('domain', { type: 'kvm' }, inner);
      expect(documentText(value)).toBe(serialized(value));
    }),
    { numRuns: 500 },
  );
});
