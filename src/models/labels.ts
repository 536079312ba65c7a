/**
 * Converts `id2label`, such as `{"0": "cat", "1": "dog"}`, to a list. transformers omits it for its two default labels.
 */
export function labelsOf(byId: Readonly<Record<string, string>>): string[] {
  const names = Object.entries(byId);
  if (names.length === 0) return ["LABEL_0", "LABEL_1"];
  return Array.from({ length: names.length }, (_, id) => byId[String(id)] ?? "N/A");
}
