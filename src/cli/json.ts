/** QEMU's way to print JSON lies below, since image names are printed with it. */
export * from '../bytes/qemu-json.ts';
