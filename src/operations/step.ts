import { DiskError } from '../errors.ts';

/**
 * Does `work`; a DiskError of it says in `detail.step` at which step of an operation it came, but for a stop. The step of
 * a smaller part that it names already stays where it is one of `within`.
 */
export async function atStep<T>(
  name: string,
  work: () => Promise<T>,
  within: readonly string[] = [],
): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    if (!(cause instanceof DiskError) || cause.code === 'aborted') throw cause;
    const inner = within.find((one) => one === cause.detail.step);
    throw new DiskError(cause.code, cause.message, {
      path: cause.path,
      offset: cause.offset,
      field: cause.field,
      detail: { ...cause.detail, step: inner ?? name },
      cause,
    });
  }
}
