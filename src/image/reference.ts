import { DiskError } from '../errors.ts';

/** An image's name taken apart. Other schemes than a host file are named here, and opened nowhere yet. */
export type Reference =
  | { readonly kind: 'file'; readonly path: string }
  /** `json:{…}`: a description of nodes. */
  | { readonly kind: 'json'; readonly text: string }
  | { readonly kind: 'protocol'; readonly protocol: string; readonly name: string };

/** Protocols and utility drivers that QEMU's tools know, so that a message can tell them from a slip. */
const knownProtocols: ReadonlySet<string> = new Set(
  `blkdebug blklogwrites blkverify fat ftp ftps gluster gluster+tcp gluster+unix gluster+rdma host_cdrom http
   https iscsi iser nbd nbd+tcp nbd+unix nfs null-aio null-co nvme quorum rbd ssh throttle`.split(/\s+/),
);

/**
 * Takes a name apart by QEMU's rules: `json:` holds a description, a word followed by a colon before any slash
 * names a protocol, `file:` and `host_device:` are taken off. Everything else is a path.
 */
export function parseReference(name: string): Reference {
  const protocol = protocolOf(name);
  if (protocol === undefined) return { kind: 'file', path: name };
  const rest = name.slice(protocol.length + 1);
  if (protocol === 'json') return { kind: 'json', text: rest };
  if (protocol !== 'file' && protocol !== 'host_device') return { kind: 'protocol', protocol, name };
  // What follows the prefix is a path even where it looks like another protocol.
  return { kind: 'file', path: protocolOf(rest) === undefined ? rest : `./${rest}` };
}

/** The protocol that a name begins with: what precedes a colon, when no slash comes before it. */
export function protocolOf(name: string): string | undefined {
  const colon = name.indexOf(':');
  if (colon < 0) return undefined;
  const slash = name.indexOf('/');
  return slash >= 0 && slash < colon ? undefined : name.slice(0, colon);
}

/**
 * The name by which an image at `base` means `name`: absolute names and names with a protocol stay as they are,
 * others are relative to the directory of `base`. Throws `bad-argument` where `base` has no directory.
 */
export function combineReference(base: string, name: string): string {
  if (name.startsWith('/') || protocolOf(name) !== undefined) return name;
  if (base === '' || base.startsWith('json:')) {
    throw new DiskError('bad-argument', `A relative name has no meaning beside '${base}'`, {
      path: base,
      field: 'backing_file',
      detail: { name },
    });
  }
  const afterProtocol = (protocolOf(base)?.length ?? -1) + 1;
  const afterSlash = base.lastIndexOf('/') + 1;
  return base.slice(0, Math.max(afterProtocol, afterSlash)) + name;
}

/** The host path that a name leads to. Throws `unsupported` (field `protocol`) for every other way of opening. */
export function requireFile(name: string): string {
  const reference = parseReference(name);
  if (reference.kind === 'file') return reference.path;
  const protocol = reference.kind === 'json' ? 'json' : reference.protocol;
  const known = protocol === 'json' || knownProtocols.has(protocol);
  throw new DiskError(
    'unsupported',
    known
      ? `Images by ${protocol}: cannot be opened yet: '${name}'`
      : `No protocol is called '${protocol}': '${name}'`,
    { path: name, field: 'protocol', detail: { protocol, known } },
  );
}
