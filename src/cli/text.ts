/** "a, b or c" */
export function list(names: readonly string[]): string {
  return `${names.slice(0, -1).join(", ")} or ${names.at(-1)}`;
}

/** "1 image", "2 images", "2 batches" */
export function count(number: number, noun: string): string {
  const ending = noun.endsWith("ch") ? "es" : "s";
  return `${number} ${noun}${number === 1 ? "" : ending}`;
}
