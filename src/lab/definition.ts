import { accessSync, constants } from 'node:fs';
import { isDiskError } from '../errors.ts';
import { readSmallText } from '../platform/json-file.ts';
import { domainXml, metadataNamespace } from './domain-xml.ts';
import type { SeatOwner } from './plan.ts';
import type { Seat } from './seat.ts';

/** A definition of more than this many bytes is somebody else's file. */
const largest = 1024 * 1024;

/**
 * The seat's libvirt definition. `before` is what its file holds now: a definition that was made for emulation stays so,
 * whoever runs the command next, and whatever they may use of this machine.
 */
export function definitionOf(seat: Seat, before?: string): string {
  const type =
    before === undefined ? typeHere() : /<domain\b[^>]*\btype="qemu"/.test(before) ? 'qemu' : 'kvm';
  return domainXml(seat, { type });
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
