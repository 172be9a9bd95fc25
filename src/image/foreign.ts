import { viewOf } from '../bytes/numbers.ts';

/** Signatures of formats that QEMU probes for. One without a driver here must not be taken for raw. */
const signatures: readonly { readonly format: string; matches(head: Uint8Array): boolean }[] = [
  { format: 'qcow', matches: (head) => starts(head, 'QFI\xfb\0\0\0\x01') },
  { format: 'qcow2', matches: isQcow2 },
  { format: 'vmdk', matches: (head) => starts(head, 'KDMV') || starts(head, 'COWD') || isVmdkText(head) },
  { format: 'vdi', matches: (head) => head.length >= 68 && viewOf(head).getUint32(64, true) === 0xbeda107f },
  { format: 'vpc', matches: (head) => starts(head, 'conectix') },
  { format: 'vhdx', matches: (head) => starts(head, 'vhdxfile') },
  { format: 'qed', matches: (head) => starts(head, 'QED\0') },
  { format: 'parallels', matches: isParallels },
  { format: 'bochs', matches: isBochs },
  { format: 'cloop', matches: (head) => starts(head, '#!/bin/sh\n#V2.0 Format\nmodprobe cloop') },
  { format: 'luks', matches: (head) => starts(head, 'LUKS\xba\xbe\0\x01') },
];

/** The name of the format whose signature the first bytes (512 or more) carry, by QEMU's rules of probing. */
export function signatureOf(head: Uint8Array): string | undefined {
  return signatures.find((signature) => signature.matches(head))?.format;
}

function starts(head: Uint8Array, text: string, at = 0): boolean {
  if (head.length < at + text.length) return false;
  for (let index = 0; index < text.length; index++) {
    if (head[at + index] !== text.charCodeAt(index)) return false;
  }
  return true;
}

function isQcow2(head: Uint8Array): boolean {
  return starts(head, 'QFI\xfb') && head.length >= 8 && viewOf(head).getUint32(4) >= 2;
}

function isParallels(head: Uint8Array): boolean {
  if (!starts(head, 'WithoutFreeSpace') && !starts(head, 'WithouFreSpacExt')) return false;
  return head.length >= 20 && viewOf(head).getUint32(16, true) === 2;
}

function isBochs(head: Uint8Array): boolean {
  if (!starts(head, 'Bochs Virtual HD Image\0')) return false;
  if (!starts(head, 'Redolog\0', 32) || !starts(head, 'Growing\0', 48) || head.length < 68) return false;
  const version = viewOf(head).getUint32(64, true);
  return version === 0x10000 || version === 0x20000;
}

/** A VMDK descriptor: `version=1` (2, 3) on a line that only comments and lines of spaces precede. */
function isVmdkText(head: Uint8Array): boolean {
  const text = String.fromCharCode(...head.subarray(0, 512));
  return /^(#[^\n]*\n| +\r?\n)*version=[123]\r?\n/.test(text);
}
