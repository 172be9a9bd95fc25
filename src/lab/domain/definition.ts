import { accessSync, constants } from 'node:fs';
import { isDiskError } from '../../errors.ts';
import { readSmallText } from '../../platform/json-file.ts';
import type { SeatOwner } from '../plan.ts';
import type { Seat } from '../seats/seat.ts';
import { type DomainTemplate, domainFromTemplate } from './domain-template.ts';
import { type DomainType, type DomainXmlOptions, domainXml, metadataNamespace } from './domain-xml.ts';

/** A definition of more than this many bytes is somebody else's file. */
const largest = 1024 * 1024;

/** What a lab's definitions have in common. */
export interface DefinitionKind extends Omit<DomainXmlOptions, 'type'> {
  /** The runner's choice; undefined: hardware virtualization where this user may use it. */
  readonly type?: DomainType;
  readonly template?: DomainTemplate;
}

/**
 * The seat's libvirt definition. `before` is what its file holds now: a definition that was made for emulation stays so,
 * whoever runs the command next, and whatever they may use of this machine.
 */
export function definitionOf(seat: Seat, kind: DefinitionKind, before?: string): string {
  const { template, backing } = kind;
  const was = /<domain\b[^>]*\stype="(kvm|qemu)"/.exec(before ?? '')?.[1] as 'kvm' | 'qemu' | undefined;
  const type = kind.type === 'test' ? 'test' : (was ?? kind.type ?? typeHere());
  return template
    ? domainFromTemplate(seat, template, { type, backing })
    : domainXml(seat, { type, backing });
}

let known: 'kvm' | 'qemu' | undefined;

/** Hardware virtualization where this user may use it. */
function typeHere(): 'kvm' | 'qemu' {
  if (known === undefined) {
    try {
      accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
      known = 'kvm';
    } catch {
      known = 'qemu';
    }
  }
  return known;
}

/** Whose the file in a definition's place is, by the metadata in it; undefined where there is none. */
export function definitionOwner(path: string, lab: string, seat: string): SeatOwner | undefined {
  let text: string | undefined;
  try {
    text = readSmallText(path, largest);
  } catch (error) {
    if (!isDiskError(error, 'corrupt')) throw error;
    return { kind: 'foreign', text: '' };
  }
  if (text === undefined) return undefined;
  const mark = /<cowherd:seat\b[^>]*>/.exec(text)?.[0] ?? '';
  const says = (attribute: string, value: string) => mark.includes(` ${attribute}="${value}"`);
  const ours = mark.includes(`"${metadataNamespace}"`) && says('lab', lab) && says('name', seat);
  return { kind: ours ? 'ours' : 'foreign', text };
}
