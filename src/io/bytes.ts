/** Reads and shows sizes in bytes, such as "4GB". */

const UNITS = { B: 1, KB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12, KIB: 2 ** 10, MIB: 2 ** 20, GIB: 2 ** 30, TIB: 2 ** 40 };

/** "4GB", "1.5 GiB" or "800 MB" → bytes; undefined if `text` is not a size. */
export function parseBytes(text: string): number | undefined {
  const [, amount, unit] = text.trim().match(/^(\d+(?:\.\d+)?)\s*([kmgt]?i?b)$/i) ?? [];
  const scale = UNITS[unit?.toUpperCase() as keyof typeof UNITS] as number | undefined;
  return amount === undefined || scale === undefined ? undefined : Math.round(Number(amount) * scale);
}

/** 1234567890 → "1.23 GB". */
export function showBytes(bytes: number): string {
  const [unit, scale] = bytes < 1e9 ? ["MB", 1e6] : ["GB", 1e9];
  return `${(bytes / scale).toPrecision(3)} ${unit}`;
}
