import { isIPv4, isIPv6 } from 'node:net';
import { parse, stringify } from 'yaml';
import { DiskError } from '../../errors.ts';
import type { SeedDocument } from '../spec/seed-schema.ts';
import { encodeIso9660, markBytes, markOffset } from './iso9660.ts';

/** Whom a seed is for. */
export interface SeedSeat {
  readonly lab: string;
  readonly name: string;
  readonly uuid: string;
  readonly mac: string;
  /** Its place in the lab file, from 0. */
  readonly index: number;
}

export interface SeedContent {
  readonly spec: SeedDocument;
  /** cloud-init does its work anew when this changes: it does with every new disk. */
  readonly instance: string;
  /** The text of the file that `user-data` names. */
  readonly extra?: string;
}

/** What a seed image says of itself. */
export interface SeedMark {
  readonly lab: string;
  readonly seat: string;
  readonly instance: string;
}

/** Nothing in the image may depend on when it was made. */
const date = new Date(Date.UTC(2020, 0, 1));

/**
 * The NoCloud image of a seat (cloud-init's "cidata"): meta-data, user-data, network-config. The same bytes for the same
 * input. Throws `bad-argument` for an address that is none, or a user-data file that cloud-init would not know.
 */
export function encodeSeed(seat: SeedSeat, { spec, instance, extra }: SeedContent): Uint8Array {
  const fill = filler(seat, spec);
  const hostname = fill(spec.hostname).replaceAll('_', '-');
  const network = networkConfig(seat, spec, fill);
  const files = {
    'meta-data': stringify({ 'instance-id': instance, 'local-hostname': hostname }),
    'user-data': userData(hostname, spec, fill, extra),
    ...(network === undefined ? {} : { 'network-config': stringify(network) }),
  };
  const encoder = new TextEncoder();
  return encodeIso9660(
    Object.entries(files).map(([name, text]) => ({ name, bytes: encoder.encode(text) })),
    {
      volumeId: 'cidata',
      date,
      mark: JSON.stringify({ cowherd: 1, lab: seat.lab, seat: seat.name, instance }),
    },
  );
}

/** Whose seed an image is; undefined where it was not made here. */
export function seedMark(image: Uint8Array): SeedMark | undefined {
  if (image.length < markOffset + markBytes) return undefined;
  try {
    const text = new TextDecoder().decode(image.subarray(markOffset, markOffset + markBytes));
    const { cowherd, lab, seat, instance } = JSON.parse(text) as Record<string, unknown>;
    const texts = [lab, seat, instance];
    if (cowherd !== 1 || !texts.every((one) => typeof one === 'string')) return undefined;
    return { lab, seat, instance } as SeedMark;
  } catch {
    return undefined;
  }
}

/** Puts the seat's own in place of `{seat}` and its like; a shell's `${n}` stays. */
function filler(seat: SeedSeat, { network }: SeedDocument): (text: string) => string {
  const first = typeof network === 'object' ? network.first : 1;
  const values: Readonly<Record<string, string>> = {
    seat: seat.name,
    lab: seat.lab,
    n: String(first + seat.index),
    uuid: seat.uuid,
    mac: seat.mac,
  };
  return (text) => text.replace(/(?<!\$)\{(seat|lab|n|uuid|mac)\}/g, (_, key: string) => values[key]);
}

function userData(
  hostname: string,
  spec: SeedDocument,
  fill: (text: string) => string,
  extra: string | undefined,
): string {
  const users = spec.users.map((user) => ({
    name: fill(user.name),
    shell: user.shell,
    ...(user.groups.length > 0 ? { groups: user.groups.map(fill) } : {}),
    ...(user.sudo ? { sudo: 'ALL=(ALL) NOPASSWD:ALL' } : {}),
    ...(user.keys.length > 0 ? { ssh_authorized_keys: user.keys.map(fill) } : {}),
    ...(user.password === undefined ? {} : { lock_passwd: false, ...passwordOf(user.password) }),
  }));
  const own = {
    hostname,
    preserve_hostname: false,
    manage_etc_hosts: true,
    ...(spec.keys.length > 0 ? { ssh_authorized_keys: spec.keys.map(fill) } : {}),
    ...(users.length > 0 ? { users: ['default', ...users] } : {}),
  };
  const more = extra === undefined ? undefined : fill(extra);
  if (more === undefined) return cloudConfig(own);
  if (/^#cloud-config\s*$/m.test(firstLine(more))) return cloudConfig(merged(own, more));
  return multipart([
    ['text/cloud-config', cloudConfig(own)],
    [typeOf(more), more],
  ]);
}

function passwordOf(password: string): object {
  return password.startsWith('$') ? { passwd: password } : { plain_text_passwd: password };
}

function cloudConfig(value: object): string {
  return `#cloud-config\n${stringify(value, { lineWidth: 0 })}`;
}

function firstLine(text: string): string {
  return text.split('\n', 1)[0];
}

/** The file's keys over ours; lists that both have go one after the other. */
function merged(own: Readonly<Record<string, unknown>>, text: string): object {
  let more: unknown;
  try {
    more = parse(text, { maxAliasCount: 100 });
  } catch (cause) {
    throw new DiskError('bad-argument', `The user-data file is not YAML: ${(cause as Error).message}`, {
      field: 'user-data',
      cause,
    });
  }
  if (more === null) return own;
  if (typeof more !== 'object' || Array.isArray(more)) {
    throw new DiskError('bad-argument', 'The user-data file is no mapping of keys to values', {
      field: 'user-data',
    });
  }
  const result: Record<string, unknown> = { ...own };
  for (const [key, value] of Object.entries(more)) {
    const before = own[key];
    result[key] = Array.isArray(before) && Array.isArray(value) ? [...before, ...value] : value;
  }
  return result;
}

/** What cloud-init takes the file for, by its first line. */
function typeOf(text: string): string {
  const line = firstLine(text);
  if (line.startsWith('#!')) return 'text/x-shellscript';
  if (line.startsWith('#cloud-boothook')) return 'text/cloud-boothook';
  if (line.startsWith('#include')) return 'text/x-include-url';
  throw new DiskError('bad-argument', 'The user-data file is neither #cloud-config nor a script', {
    field: 'user-data',
    detail: { fix: 'begin it with the line #cloud-config, or with #!/bin/sh' },
  });
}

function multipart(parts: readonly (readonly [string, string])[]): string {
  const boundary = 'cowherd-user-data-part';
  const bodies = parts.map(
    ([type, text]) =>
      `--${boundary}\nContent-Type: ${type}; charset="utf-8"\nMIME-Version: 1.0\nContent-Transfer-Encoding: base64\n\n${base64(text)}\n`,
  );
  return `Content-Type: multipart/mixed; boundary="${boundary}"\nMIME-Version: 1.0\n\n${bodies.join('')}--${boundary}--\n`;
}

function base64(text: string): string {
  return (
    Buffer.from(text)
      .toString('base64')
      .match(/.{1,76}/g) ?? []
  ).join('\n');
}

/**
 * The name that the card gets. Without it, only netplan would go by the MAC address alone: what cloud-init writes for ifupdown, networkd and
 * NetworkManager asks for a card of the entry's name too.
 */
const card = 'eth0';

/** Version 2 of cloud-init's network configuration: one card, found by its MAC address. */
function networkConfig(
  seat: SeedSeat,
  { network }: SeedDocument,
  fill: (text: string) => string,
): object | undefined {
  if (network === 'none') return undefined;
  const found = { match: { macaddress: seat.mac }, 'set-name': card };
  if (network === 'dhcp') return { version: 2, ethernets: { [card]: { ...found, dhcp4: true } } };
  const address = fill(network.address);
  const [ip, prefix] = address.split('/');
  const bits = isIPv6(ip) ? 128 : 32;
  if ((!isIPv4(ip) && !isIPv6(ip)) || !/^\d+$/.test(prefix ?? '') || Number(prefix) > bits) {
    throw new DiskError(
      'bad-argument',
      `'${address}' is no address with its prefix for seat '${seat.name}'`,
      {
        field: 'seed.network.address',
        detail: { fix: 'write for example: address: 10.0.0.{n}/24; a larger net for more seats' },
      },
    );
  }
  const via = network.gateway === undefined ? undefined : fill(network.gateway);
  return {
    version: 2,
    ethernets: {
      [card]: {
        ...found,
        addresses: [address],
        ...(via === undefined ? {} : { routes: [{ to: isIPv6(via) ? '::/0' : '0.0.0.0/0', via }] }),
        ...(network.dns.length > 0 ? { nameservers: { addresses: network.dns.map(fill) } } : {}),
      },
    },
  };
}
