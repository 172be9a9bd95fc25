/** Where virsh goes by itself: LIBVIRT_DEFAULT_URI; else the system's libvirt for root, the user's own for others. */
export function defaultUri(env: Readonly<Record<string, string | undefined>> = process.env): string {
  return env.LIBVIRT_DEFAULT_URI || (process.geteuid?.() === 0 ? 'qemu:///system' : 'qemu:///session');
}
