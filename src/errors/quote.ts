/** For messages: a name or value from a file, cut short and with control characters escaped. */
export function quote(value: unknown): string {
  const text = JSON.stringify(value) ?? "nothing";
  return text.length > 120 ? `${text.slice(0, 117)}…${text.endsWith('"') ? '"' : ""}` : text;
}
