import { unlinkSync } from 'node:fs';
import type { CliContext, Command } from '../cli/context.ts';
import { CliFailure } from '../cli/failure.ts';
import { explain, report } from '../cli/messages.ts';
import { versionText } from '../cli/version.ts';
import { wipe } from '../crypto/bytes.ts';
import { nbdPort } from '../storage/nbd/protocol.ts';
import { type NbdArguments, readArguments } from './arguments.ts';
import { daemonize, handedSockets, isDaemon, settled } from './daemon.ts';
import { connectDevice, disconnectDevice } from './device.ts';
import { helpText } from './help.ts';
import { listExports } from './list-exports.ts';
import { activatedPlace, activatedSockets, listenAt, type Place } from './listen.ts';
import { writePidFile } from './pid-file.ts';
import type { ExportRecipe } from './recipe.ts';
import { NbdServer } from './server.ts';
import { tlsStarter } from './tls.ts';
import { withTypedKeys } from './typed-keys.ts';

let stoppedOpening = false;

/** Whether a thread still opens an image that nobody wants any more: it derives a key, say, and cannot be stopped. */
export function opensInVain(): boolean {
  return stoppedOpening;
}

/** The program `cow-nbd`, a drop-in for `qemu-nbd`: messages, their order and exit codes are its. */
export const cowNbd: Command = async (args, outer) => {
  const last: (() => void)[] = [];
  const context: CliContext = Object.create(outer, {
    atEnd: { value: (work: () => void) => last.push(work) },
  });
  try {
    const found = readArguments(args, context);
    if (found === 'help') context.stdout.write(helpText(context.program));
    else if (found === 'version') context.stdout.write(versionText('qemu-nbd'));
    else return await run(found, args, context);
    return 0;
  } catch (error) {
    const { text, hint } = explain(error);
    if (text !== '') report(context, text);
    if (hint) context.stderr.write(hint.endsWith('\n') ? hint : `${hint}\n`);
    if (!(error instanceof CliFailure) && context.env.COWHERD_DEBUG === '1') throw error;
    return error instanceof CliFailure ? error.exitCode : 1;
  } finally {
    for (const work of last) work();
  }
};

async function run(found: NbdArguments, args: readonly string[], context: CliContext): Promise<number> {
  checkOperands(found, context);
  const activated = handedSockets(context.env) ?? activatedSockets(context.env, process.pid);
  if (activated > 0) checkActivation(found, activated);
  const place = placeOf(found, activated);
  const credentials = checkTls(found);
  if (found.selinuxLabel !== undefined) {
    if (found.socket === undefined && found.connect === undefined) {
      throw new CliFailure('--selinux-label is not permitted without --socket');
    }
    throw new CliFailure('SELinux labels are not supported');
  }
  if (found.list)
    return listExports(place, { credentials, hostname: found.tlsHostname ?? found.bind }, context);
  if (found.disconnect) return disconnectDevice(found.files[0], context);
  if ((found.fork || (found.connect !== undefined && !found.verbose)) && !isDaemon(context.env)) {
    return daemonize(args, context, { activated, secrets: found.secrets });
  }
  return serve(found, place, context);
}

function checkOperands(found: NbdArguments, { program }: CliContext): void {
  if (found.list) {
    if (found.files.length > 0) throw new CliFailure('List mode is incompatible with a file name');
    const own =
      found.exportName !== undefined ||
      found.description !== undefined ||
      found.offset > 0 ||
      found.connect !== undefined ||
      found.disconnect ||
      found.format !== undefined ||
      typeof found.snapshot === 'string' ||
      found.bitmaps.length > 0 ||
      found.allocationDepth ||
      found.aio !== undefined ||
      found.discard !== undefined ||
      found.cache !== undefined;
    if (own) throw new CliFailure('List mode is incompatible with per-device settings');
    if (found.fork) throw new CliFailure('List mode is incompatible with forking');
  } else if (found.files.length !== 1 && !(found.files.length === 0 && found.others.length > 0)) {
    throw new CliFailure('Invalid number of arguments', {
      hint: `Try \`${program} --help' for more information.\n`,
    });
  }
}

function checkActivation(found: NbdArguments, count: number): void {
  const conflicts: readonly [unknown, string][] = [
    [found.connect, "NBD device can't be set when using socket activation"],
    [found.socket, "Unix socket can't be set when using socket activation"],
    [found.bind, "The interface can't be set when using socket activation"],
    [found.port, "TCP port number can't be set when using socket activation"],
    [found.selinuxLabel, "SELinux label can't be set when using socket activation"],
    [found.list || undefined, 'List mode is incompatible with socket activation'],
  ];
  for (const [given, message] of conflicts) if (given !== undefined) throw new CliFailure(message);
  if (count > 1) throw new CliFailure('qemu-nbd does not support socket activation with LISTEN_FDS > 1');
}

function placeOf(found: NbdArguments, activated: number): Place {
  if (activated > 0) return activatedPlace();
  if (found.socket !== undefined) return { kind: 'unix', path: found.socket };
  if (found.connect !== undefined) {
    return { kind: 'unix', path: `/var/lock/qemu-nbd-${found.connect.replace(/^.*\//, '')}` };
  }
  return { kind: 'tcp', host: found.bind ?? '0.0.0.0', port: found.port ?? String(nbdPort) };
}

function checkTls(found: NbdArguments) {
  const { tls, tlsCredentials, tlsAuthorization, tlsHostname, list, connect } = found;
  if (tlsCredentials === undefined) {
    if (tlsAuthorization !== undefined)
      throw new CliFailure('--tls-authz is not permitted without --tls-creds');
    if (tlsHostname !== undefined)
      throw new CliFailure('--tls-hostname is not permitted without --tls-creds');
    return undefined;
  }
  if (connect !== undefined) throw new CliFailure('TLS is not supported with a host device');
  if (tlsAuthorization !== undefined && list) {
    throw new CliFailure('TLS authorization is incompatible with export list');
  }
  if (tlsHostname !== undefined && !list)
    throw new CliFailure('TLS hostname is only supported with export list');
  try {
    return tls.credentials(tlsCredentials, list ? 'client' : 'server');
  } catch (error) {
    throw new CliFailure(`Failed to get TLS creds: ${explain(error).text}`, { cause: error });
  }
}

async function serve(found: NbdArguments, place: Place, context: CliContext): Promise<number> {
  const { promise: over, end } = ending(context.signal);
  const credentials = checkTls(found);
  const authorize =
    found.tlsAuthorization === undefined
      ? undefined
      : (identity: string) => found.tls.authorization(found.tlsAuthorization!)?.(identity) ?? false;
  const server = new NbdServer({
    limit: found.shared,
    startTls: credentials && tlsStarter(credentials, authorize),
    onIdle: () => {
      if (!found.persistent) end();
    },
    onRefused: (error) => report(context, `option negotiation failed: ${explain(error).text}`),
    onFailure: (error) => report(context, `A client could not be served: ${explain(error).text}`),
  });
  try {
    await listenAt(server, place);
    for (const recipe of recipesOf(found, context)) {
      const opening = withTypedKeys(recipe, context, (one) => server.add(one));
      const warnings = await Promise.race([opening, over.then(() => undefined)]);
      if (warnings === undefined) {
        stoppedOpening = true;
        return 0;
      }
      context.stderr.write(warnings);
    }
    if (found.pidFile !== undefined) writePidFile(found.pidFile);
    server.start();
    const device =
      found.connect === undefined ? undefined : await connectDevice(found.connect, place, end, context);
    settled(context.env);
    await over;
    await device?.();
  } finally {
    // No client has come yet, so nothing is to be undone.
    if (!stoppedOpening) await server.close();
    wipe(...found.secrets.values());
    if (place.kind === 'unix') removeQuietly(place.path);
  }
  return 0;
}

/** A promise that `end` or the signal keeps. */
function ending(signal: AbortSignal): { readonly promise: Promise<void>; readonly end: () => void } {
  let end!: () => void;
  const promise = new Promise<void>((resolve) => {
    end = resolve;
  });
  if (signal.aborted) end();
  signal.addEventListener('abort', end, { once: true });
  return { promise, end };
}

function recipesOf(found: NbdArguments, { program }: CliContext): ExportRecipe[] {
  const { cache = 'writeback', offset, discard, detectZeroes, objects, secrets, untrusted } = found;
  const shared = {
    program,
    readOnly: found.readOnly,
    discard,
    detectZeroes,
    writethrough: cache === 'writethrough' || cache === 'directsync',
    neverFlush: cache === 'unsafe',
    objects,
    secrets,
    untrusted,
    multiConn: found.shared !== 1,
  } as const;
  const recipes: ExportRecipe[] = [];
  if (found.files.length === 1) {
    if (found.imageOptions && found.format !== undefined) {
      throw new CliFailure('--image-opts and -f are mutually exclusive');
    }
    const { format, imageOptions, snapshot, overlay, allocationDepth, bitmaps, description } = found;
    const [filename] = found.files;
    const name = found.exportName ?? '';
    // The overlay of -s has no snapshots, QEMU finds: one that is served read-only would not be what -s promises.
    if (snapshot !== undefined && overlay === 'export')
      throw new CliFailure("Failed to load snapshot: Can't find snapshot");
    recipes.push({
      ...shared,
      name,
      filename,
      offset,
      format,
      imageOptions,
      snapshot,
      // A snapshot cannot be written, so nothing has to go elsewhere.
      overlay: found.readOnly ? undefined : overlay,
      allocationDepth,
      bitmaps,
      description,
      nativeAioCached: found.aio === 'native' && !imageOptions && cache !== 'none' && cache !== 'directsync',
    });
  }
  for (const other of found.others) {
    const { name = '', filename = '' } = other;
    if (recipes.some((recipe) => recipe.name === name))
      throw new CliFailure(`There are two exports '${name}'`);
    recipes.push({ ...shared, ...other, name, filename });
  }
  return recipes;
}

function removeQuietly(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // Whoever removed it did what was to be done.
  }
}
