import { rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { explain } from '../../cli/messages.ts';
import { makeFolder } from '../../platform/json-file.ts';
import { domainXml } from '../domain-xml.ts';
import type { Lab } from '../lab.ts';
import { placeOf, servedAt, serveSeats } from '../serve.ts';
import { type LabCommand, labFrom, locked, say, seatsFrom, shown, warn } from './command.ts';

/** `cowherd serve`: exports seats' disks by NBD until it is ended. */
export const run: LabCommand = async (input, context) => {
  const { lab, rest } = labFrom(input, context);
  const names = seatsFrom(lab, rest);
  const { definitions } = input.options;
  if (typeof definitions === 'string') {
    const folder = resolve(context.cwd, definitions);
    writeDefinitions(lab, names, folder);
    say(context, `definitions for other hosts are in ${shown(context, folder)}`);
    return 0;
  }
  const place = placeOf(lab);
  // Under the lab's lock, so that no reset is half-way through these disks.
  const server = await locked(lab, () =>
    serveSeats(lab, names, {
      program: context.program,
      onRefused: (error) => warn(context, `a client was not let in: ${explain(error).text}`),
      onFailure: (error) => warn(context, `a client could not be served: ${String(error)}`),
    }),
  );
  try {
    const where =
      place.kind === 'unix' ? place.path : place.kind === 'tcp' ? `${place.host}:${place.port}` : '';
    say(context, `serving ${names.length} seats at ${where}`);
    if (place.kind === 'tcp' && lab.spec.serve?.tls === undefined)
      warn(context, 'whoever reaches this address can read and write the seats: serve has no tls');
    await aborted(context.signal);
  } finally {
    await server.close();
    if (place.kind === 'unix') rmSync(place.path, { force: true });
  }
  return 0;
};

function writeDefinitions(lab: Lab, names: readonly string[], folder: string): void {
  const served = servedAt(lab);
  makeFolder(folder);
  for (const name of names) {
    const seat = lab.seats.get(name)!;
    writeFileSync(join(folder, `${name}.xml`), domainXml(seat, { type: 'kvm', served }));
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((done) => {
    if (signal.aborted) done();
    signal.addEventListener('abort', () => done(), { once: true });
  });
}
