import { createHash } from 'node:crypto';
import { DOMParser, XMLSerializer } from '@xmldom/xmldom';
import { DiskError } from '../../../errors.ts';
import { metadataNamespace } from '../../domain/domain-xml.ts';

/** What a domain of ours says of its definition, in `<metadata>`. */
export interface DefinitionMark {
  /** The file that it was defined from, absolute, on the machine that defined it. */
  readonly from: string;
  /** SHA-256 of that file's text, in hexadecimal. */
  readonly digest: string;
}

export function definitionDigest(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

/** The definition with the mark of where it comes from. Throws `corrupt` for one that is not ours. */
export function markDefinition(text: string, from: string): string {
  const document = new DOMParser({ onError: () => undefined }).parseFromString(text, 'text/xml');
  const seat = document.getElementsByTagNameNS(metadataNamespace, 'seat')[0];
  if (seat === undefined) {
    throw new DiskError('corrupt', `'${from}' is no definition of a seat`, {
      path: from,
      detail: { fix: "'cowherd up' writes it anew" },
    });
  }
  seat.setAttribute('from', from);
  seat.setAttribute('digest', definitionDigest(text));
  return new XMLSerializer().serializeToString(document);
}

/** The mark in a domain's metadata element of ours, as `virsh metadata` prints it; undefined where it has none. */
export function markIn(metadata: string): DefinitionMark | undefined {
  const document = new DOMParser({ onError: () => undefined }).parseFromString(metadata, 'text/xml');
  const from = document.documentElement?.getAttribute('from');
  const digest = document.documentElement?.getAttribute('digest');
  return from && digest ? { from, digest } : undefined;
}
