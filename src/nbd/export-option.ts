import { CliFailure } from '../cli/failure.ts';
import { splitOptions } from '../cli/options.ts';
import type { ExportRecipe } from './recipe.ts';

const yes = new Set(['on', 'yes', 'true', 'y']);
const no = new Set(['off', 'no', 'false', 'n']);

/**
 * `--export name=NAME,file=FILE[,format=FORMAT][,read-only=on][,copy-on-write=on][,description=TEXT]…`: one more export
 * of the same server. Commas in values are doubled. Throws CliFailure.
 */
export function parseExportOption(text: string): Partial<ExportRecipe> & { name: string; filename: string } {
  const found: Record<string, unknown> = {};
  for (const { name, value } of splitOptions(text)) {
    switch (name) {
      case 'name':
      case 'description':
      case 'format':
        found[name] = value;
        break;
      case 'file':
        found.filename = value;
        break;
      case 'bitmap':
        found.bitmaps = [...((found.bitmaps as string[] | undefined) ?? []), value];
        break;
      case 'read-only':
        found.readOnly = onOff(name, value);
        break;
      case 'allocation-depth':
        found.allocationDepth = onOff(name, value);
        break;
      case 'copy-on-write':
        found.overlay = onOff(name, value) ? 'session' : undefined;
        break;
      case 'snapshot':
        found.snapshot = value;
        found.readOnly = true;
        break;
      default:
        throw new CliFailure(`Invalid parameter '${name}' of --export`);
    }
  }
  const { name, filename } = found;
  if (typeof name !== 'string' || typeof filename !== 'string') {
    throw new CliFailure("--export needs 'name' and 'file'");
  }
  return { ...found, name, filename };
}

function onOff(name: string, value: string): boolean {
  if (yes.has(value)) return true;
  if (no.has(value)) return false;
  throw new CliFailure(`Parameter '${name}' expects 'on' or 'off'`);
}
