import type { CliContext } from '../cli/context.ts';
import { CliFailure } from '../cli/failure.ts';
import { explain } from '../cli/messages.ts';
import type { TlsCredentials } from '../cli/tls-objects.ts';
import { connectSocket } from '../platform/socket-stream.ts';
import { type ExportInfo, Handshake } from '../storage/nbd/handshake.ts';
import { TransmissionFlag } from '../storage/nbd/protocol.ts';
import type { ByteStream } from '../storage/nbd/stream.ts';
import type { Place } from './listen.ts';

const flagNames: readonly (readonly [number, string])[] = [
  [TransmissionFlag.readOnly, 'readonly'],
  [TransmissionFlag.sendFlush, 'flush'],
  [TransmissionFlag.sendFua, 'fua'],
  [TransmissionFlag.rotational, 'rotational'],
  [TransmissionFlag.sendTrim, 'trim'],
  [TransmissionFlag.sendWriteZeroes, 'zeroes'],
  [TransmissionFlag.sendDf, 'df'],
  [TransmissionFlag.canMultiConn, 'multi'],
  [TransmissionFlag.sendResize, 'resize'],
  [TransmissionFlag.sendCache, 'cache'],
  [TransmissionFlag.sendFastZero, 'fast-zero'],
];

/** `-L`: asks the server at `place` what it has. Throws CliFailure in qemu-nbd's words. */
export async function listExports(
  place: Place,
  security: { readonly credentials?: TlsCredentials; readonly hostname?: string },
  context: CliContext,
): Promise<number> {
  if (place.kind === 'activated') throw new CliFailure('List mode is incompatible with socket activation');
  let stream: ByteStream | undefined;
  try {
    stream = await connectSocket(place, context.signal);
    const { credentials, hostname } = security;
    const handshake = new Handshake(stream);
    await handshake.begin(credentials && { credentials, hostname });
    const found = await handshake.list();
    let text = `exports available: ${found.length}\n`;
    for (const { name, description } of found) {
      text += ` export: '${name}'\n`;
      if (description !== '') text += `  description: ${description}\n`;
      text += factsOf(await handshake.info(name));
      const contexts = await handshake.contexts(name);
      if (contexts.length > 0) {
        text += `  available meta contexts: ${contexts.length}\n`;
        text += contexts.map((one) => `   ${one}\n`).join('');
      }
    }
    handshake.abort();
    context.stdout.write(text);
    return 0;
  } catch (error) {
    stream?.close();
    const { text, hint } = explain(error);
    throw new CliFailure(text, { hint, cause: error });
  }
}

function factsOf(info: ExportInfo | undefined): string {
  if (!info) return '';
  const { size, flags, blocks } = info;
  let text = `  size:  ${size}\n`;
  if ((flags & TransmissionFlag.hasFlags) !== 0) {
    const names = flagNames.filter(([flag]) => (flags & flag) !== 0).map(([, name]) => `${name} `);
    text += `  flags: 0x${flags.toString(16)} ( ${names.join('')})\n`;
  }
  if (!blocks) return text;
  const { minimum, preferred, maximum } = blocks;
  return `${text}  min block: ${minimum}\n  opt block: ${preferred}\n  max block: ${maximum}\n`;
}
