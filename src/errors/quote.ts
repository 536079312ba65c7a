/**
 * Formats a value from a file for a message: as JSON (which escapes control characters), truncated to 120 characters.
 */
export function quote(value: unknown): string {
  const text = JSON.stringify(value) ?? "nothing";
  return text.length > 120 ? `${text.slice(0, 117)}…${text.endsWith('"') ? '"' : ""}` : text;
}
