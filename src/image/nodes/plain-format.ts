import type { FormatDriver } from '../../formats/driver.ts';
import { RawLayer, WritableRawLayer } from '../../formats/raw/layer.ts';
import type { ByteStore } from '../../storage/store.ts';

/** A node that is no format, opened as an image: its bytes as they are, under its own name. */
export function plainFormat(name: string): FormatDriver {
  return {
    name,
    createOptions: [],
    probe: () => 0,
    async open(source, context) {
      return context.writable ? new WritableRawLayer(source as ByteStore, name) : new RawLayer(source, name);
    },
  };
}
