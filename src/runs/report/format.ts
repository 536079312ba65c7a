/** Formats numbers for messages and reports. */

/** Three significant digits. Uses an exponent only below 0.001 and from a million on. */
export function format(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  const magnitude = Math.abs(value);
  if (magnitude !== 0 && (magnitude < 1e-3 || magnitude >= 1e6)) return value.toExponential(1);
  if (magnitude === 0) return "0";
  return magnitude >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

/** A number of seconds as `7.3 s`, `2 min 5 s` or `3 h 10 min`. */
export function duration(seconds: number): string {
  if (seconds < 60) return `${seconds.toPrecision(2)} s`;
  const whole = Math.round(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  return hours > 0 ? `${hours} h ${minutes} min` : `${minutes} min ${whole % 60} s`;
}
