import { isDiskError } from '../errors.ts';
import { parseJsonName } from '../image/nodes/json-dialect.ts';
import { CliFailure } from './failure.ts';
import { splitOptions } from './options.ts';

/** What an `--object` says: its members by their names; `qom-type` is its type. Throws CliFailure. */
export function objectMembers(text: string): Map<string, string> {
  return text.startsWith('{') ? fromJson(text) : fromKeys(text);
}

/** `secret,id=a`: the first word without a value is the type. */
function fromKeys(text: string): Map<string, string> {
  const members = new Map<string, string>();
  for (const { name, value, flag } of splitOptions(text, 'qom-type')) {
    if (flag) throw new CliFailure(`Expected '=' after parameter '${name}'`);
    members.set(name, value);
  }
  return members;
}

function fromJson(text: string): Map<string, string> {
  try {
    return new Map([...parseJsonName(text).entries()].map(([name, member]) => [name, String(member)]));
  } catch (error) {
    if (!isDiskError(error)) throw error;
    throw new CliFailure(error.message.replace('Could not parse the JSON options: ', ''), { cause: error });
  }
}
