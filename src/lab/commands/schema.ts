import { labJsonSchema } from '../spec/schema.ts';
import { type LabCommand, sayJson } from './command.ts';

/** `cowherd schema`: the JSON Schema of lab files, for editors. */
export const run: LabCommand = async (_input, context) => {
  sayJson(context, labJsonSchema());
  return 0;
};
