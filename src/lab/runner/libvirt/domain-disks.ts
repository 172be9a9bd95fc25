import { DOMParser, type Element } from '@xmldom/xmldom';
import { metadataNamespace } from '../../domain/domain-xml.ts';

/** What a domain really uses, by its document. */
export interface DomainDisks {
  /** The definition file that it was made from; undefined: it is no seat's. */
  readonly from?: string;
  /** Files and devices that its disks (not its CD-ROMs) are, in order. What they stand on is not among them. */
  readonly disks: readonly string[];
  /** Files that what its serial ports say is written to. */
  readonly logs: readonly string[];
}

/** Reads a domain's document (`virsh dumpxml`); an empty one names nothing. */
export function domainDisks(xml: string): DomainDisks {
  if (xml === '') return { disks: [], logs: [] };
  const document = new DOMParser({ onError: () => undefined }).parseFromString(xml, 'text/xml');
  const mark = document.getElementsByTagNameNS(metadataNamespace, 'seat')[0];
  const disks: string[] = [];
  for (const source of [...document.getElementsByTagName('source')] as Element[]) {
    const path = source.getAttribute('file') || source.getAttribute('dev');
    const parent = source.parentNode as Element | null;
    if (!path || parent === null) continue;
    const isDisk = parent.nodeName === 'disk' && (parent.getAttribute('device') || 'disk') === 'disk';
    if (isDisk) disks.push(path);
  }
  const logs = ([...document.getElementsByTagName('log')] as Element[]).flatMap(
    (log) => log.getAttribute('file') || [],
  );
  return { from: mark?.getAttribute('from') || undefined, disks, logs };
}
