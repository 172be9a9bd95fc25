import type { CliContext } from '../cli/context.ts';
import { CliFailure } from '../cli/failure.ts';
import type { TlsCredentials } from '../cli/tls-objects.ts';
import type { Place } from './listen.ts';

export async function listExports(
  place: Place,
  security: { readonly credentials?: TlsCredentials; readonly hostname?: string },
  context: CliContext,
): Promise<number> {
  void place;
  void security;
  void context;
  throw new CliFailure('Listing exports of another server is not supported yet');
}
