import { readFileSync } from 'node:fs';
import { errnoOf, strerror } from '../platform/errno.ts';
import { CliFailure } from './failure.ts';
import { splitOptions } from './options.ts';

const secretMembers = ['data', 'file', 'format', 'iv', 'keyid'];

/**
 * `--object secret,id=…`: checked as qemu-img checks it. No image that we open is encrypted yet, so the secret
 * is not kept. Other kinds of objects are refused.
 */
export function acceptObject(text: string): void {
  const members = text.startsWith('{') ? fromJson(text) : fromKeys(text);
  const type = members.get('qom-type');
  if (type === undefined) throw new CliFailure("Parameter 'qom-type' is missing");
  if (type !== 'secret') throw new CliFailure(`Parameter 'qom-type' does not accept value '${type}'`);
  const id = members.get('id');
  if (id === undefined) throw new CliFailure("Parameter 'id' is missing");
  for (const name of members.keys()) {
    if (name === 'qom-type' || name === 'id' || secretMembers.includes(name)) continue;
    throw new CliFailure(`Parameter '${name}' is unexpected`);
  }
  const format = members.get('format');
  if (format !== undefined && format !== 'raw' && format !== 'base64') {
    throw new CliFailure(`Parameter 'format' does not accept value '${format}'`);
  }
  if (!/^[A-Za-z][A-Za-z0-9._-]*$/.test(id)) {
    throw new CliFailure("Parameter 'id' expects an identifier", {
      hint: "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.\n",
    });
  }
  checkSource(members.get('file'), members.get('data'));
}

/** `--image-opts` is not built yet: refused, since the words after it would be taken for file names. */
export function refuseImageOptions(): never {
  throw new CliFailure('The option --image-opts is not supported yet');
}

function checkSource(file: string | undefined, data: string | undefined): void {
  if (file !== undefined && data !== undefined)
    throw new CliFailure("'file' and 'data' are mutually exclusive");
  if (file === undefined && data === undefined)
    throw new CliFailure("Either 'file' or 'data' must be provided");
  if (file === undefined) return;
  try {
    readFileSync(file);
  } catch (error) {
    const name = errnoOf(error);
    if (name === undefined) throw error;
    throw new CliFailure(`Unable to read ${file}: Failed to open file “${file}”: ${strerror(name)}`);
  }
}

/** `secret,id=a`: the first word without a value is the type. */
function fromKeys(text: string): Map<string, string> {
  const first = text.search(/[=,]/) < 0 ? text.length : text.search(/[=,]/);
  const implied = text[first] !== '=' && text !== '';
  const members = new Map<string, string>();
  for (const { name, value, flag } of splitOptions(implied ? `qom-type=${text}` : text)) {
    if (flag) throw new CliFailure(`Expected '=' after parameter '${name}'`);
    members.set(name, value);
  }
  return members;
}

function fromJson(text: string): Map<string, string> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new CliFailure('JSON parse error, the description of the object cannot be read');
  }
  return new Map(Object.entries(value as object).map(([name, member]) => [name, String(member)]));
}
