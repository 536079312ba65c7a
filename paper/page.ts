/** The parts of a Markdown page that a program writes. */
import { InputError } from "../src/errors/index.js";

/** Puts `content` between `<!-- name: begin -->` and `<!-- name: end -->`; the rest of the page is a person's. */
export function fillIn(page: string, name: string, content: string): string {
  const [begin, end] = [`<!-- ${name}: begin -->`, `<!-- ${name}: end -->`];
  const [from, to] = [page.indexOf(begin), page.indexOf(end)];
  if (from < 0 || to < from)
    throw new InputError("usage", `the page has no place for "${name}": add the lines ${begin} and ${end}`);
  return `${page.slice(0, from + begin.length)}\n\n${content}\n\n${page.slice(to)}`;
}

export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  if (rows.length === 0) return "Not run yet.";
  return [head, head.map(() => "---"), ...rows].map((row) => `| ${row.join(" | ")} |`).join("\n");
}
