/** The generated parts of a Markdown page. */
import { InputError } from "../src/errors/index.js";

/**
 * Puts `content` between `<!-- name: begin -->` and `<!-- name: end -->` and leaves the rest of the page as it is.
 *
 * @throws InputError if the page has no such lines
 */
export function fillIn(page: string, name: string, content: string): string {
  const [begin, end] = [`<!-- ${name}: begin -->`, `<!-- ${name}: end -->`];
  const [from, to] = [page.indexOf(begin), page.indexOf(end)];
  if (from < 0 || to < from)
    throw new InputError("file-malformed", `the page has no place for "${name}". Add the lines ${begin} and ${end}.`, {
      expected: [begin, end],
    });
  return `${page.slice(0, from + begin.length)}\n\n${content}\n\n${page.slice(to)}`;
}

export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  if (rows.length === 0) return "Not run yet.";
  return [head, head.map(() => "---"), ...rows].map((row) => `| ${row.join(" | ")} |`).join("\n");
}
