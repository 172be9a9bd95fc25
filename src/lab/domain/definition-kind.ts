import { statSync } from 'node:fs';
import { DiskError } from '../../errors.ts';
import { readSmallText } from '../../platform/json-file.ts';
import type { Lab } from '../lab.ts';
import type { Master } from '../masters/master.ts';
import type { Runner } from '../runner/runner.ts';
import type { LabSpec } from '../spec/load.ts';
import type { DefinitionKind } from './definition.ts';
import type { DomainTemplate } from './domain-template.ts';

/** A template of more than this many bytes is something else. */
const largestTemplate = 4 * 1024 * 1024;

/** What the definitions of a lab's seats have in common; asks the runner. */
export async function definitionKind(
  lab: Lab,
  master: Master,
  runner: Runner | undefined,
): Promise<DefinitionKind> {
  const domains = lab.spec.runner === 'libvirt';
  return {
    type: await runner?.domainType(),
    template: await templateOf(lab, runner),
    backing: domains && keepsItsOwner(master) ? { path: master.path, format: master.format } : undefined,
  };
}

async function templateOf({ spec }: Lab, runner: Runner | undefined): Promise<DomainTemplate | undefined> {
  const { template, given } = spec;
  if (template === undefined) return undefined;
  if ('file' in template) return templateFile(spec, template.file);
  const { domain } = template;
  if (!runner) throw new DiskError('unsupported', `The template '${domain}' is libvirt's to give`);
  return { name: `'${domain}'`, xml: await runner.domainXml(domain), given };
}

/** The template in a file. Blames the lab file's line where there is none. */
export function templateFile(spec: LabSpec, file: string): DomainTemplate {
  const xml = readSmallText(file, largestTemplate);
  if (xml !== undefined) return { name: `'${file}'`, xml, given: spec.given };
  throw spec.mistake(['template'], `there is no file '${file}'`, 'paths are relative to the lab file');
}

/** Whether QEMU can read the master without being made its owner: a file by itself, readable by everybody. */
function keepsItsOwner({ path, files }: Master): boolean {
  const stat = statSync(path);
  return files.length === 1 && stat.isFile() && (stat.mode & 0o004) !== 0;
}
