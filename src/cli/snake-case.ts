/** The record with snake_case keys, at every depth. `--json` prints them, as do all files of a run. */
export function snakeCase(record: object): object {
  const renamed = (key: string) => key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  const inside = (value: unknown) =>
    typeof value === "object" && value !== null && !Array.isArray(value) ? snakeCase(value) : value;
  return Object.fromEntries(Object.entries(record).map(([key, value]) => [renamed(key), inside(value)]));
}
