/** transformers writes `{"0": "cat", "1": "dog"}` and, where there are the default two, nothing. */
export function labelsOf(byId: Readonly<Record<string, string>>): string[] {
  const names = Object.entries(byId);
  if (names.length === 0) return ["LABEL_0", "LABEL_1"];
  return Array.from({ length: names.length }, (_, id) => byId[String(id)] ?? "N/A");
}
