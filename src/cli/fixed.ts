/** C's `%.2f`: an exact half goes to the even digit, where JavaScript's `toFixed` rounds it up. */
export function fixed2(value: number): string {
  const eighths = value * 8;
  if (!Number.isInteger(eighths) || eighths % 2 === 0) return value.toFixed(2);
  const below = Math.floor(value * 100);
  return ((below % 2 === 0 ? below : below + 1) / 100).toFixed(2);
}
