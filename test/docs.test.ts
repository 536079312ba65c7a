/** What the documentation says of the code and of itself: error codes, links, and files that it cites. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";

const ROOT = path.join(import.meta.dirname, "..");
const read = (file: string) => readFileSync(path.join(ROOT, file), "utf8");
const pages = [
  "README.md",
  "CHANGELOG.md",
  "CONTRIBUTING.md",
  "parity/README.md",
  ...readdirSync(path.join(ROOT, "docs"))
    .filter((file) => file.endsWith(".md"))
    .map((file) => path.join("docs", file)),
];

const all = (text: string, pattern: RegExp) => [...text.matchAll(pattern)].map((match) => match[1] as string);

test("docs/errors.md has every error code, and no other", () => {
  const [, union = ""] = /export type ErrorCode =([^;]*);/.exec(read("src/errors/input-error.ts")) ?? [];
  const documented = all(read("docs/errors.md"), /^\| `([a-z-]+)` \|/gm);
  expect(documented.sort()).toEqual(all(union, /^ {2}\| "([a-z-]+)"/gm).sort());
});

test("docs/architecture.md has a line for every folder of src", () => {
  const folders = readdirSync(path.join(ROOT, "src"), { withFileTypes: true }).filter((entry) => entry.isDirectory());
  const documented = all(read("docs/architecture.md"), /^\| `([a-z]+)\/` /gm);
  expect(documented.sort()).toEqual(folders.map(({ name }) => name).sort());
});

/** GitHub's anchor of a heading. */
const anchorOf = (heading: string) =>
  heading
    .replace(/\[([^\]]*)\]\([^)]*\)/g, "$1")
    .toLowerCase()
    .replace(/[^\p{L}\p{N}_ -]/gu, "")
    .replaceAll(" ", "-");

const anchorsOf = (page: string) => all(read(page).replace(/```.*?```/gs, ""), /^#+ (.*)$/gm).map(anchorOf);

test.each(pages)("links of %s lead to files and headings that exist", (page) => {
  const broken = all(read(page), /\]\((?!https?:)([^)\s]+)\)/g).filter((link) => {
    const [file = "", anchor] = link.split("#");
    const target = file === "" ? page : path.join(path.dirname(page), file);
    if (!existsSync(path.join(ROOT, target))) return true;
    return anchor !== undefined && target.endsWith(".md") && !anchorsOf(target).includes(anchor);
  });
  expect(broken).toEqual([]);
});

test.each(pages)("source files that %s cites exist", (page) => {
  const cited = all(read(page), /`((?:src|test|bench|parity|pretrain|paper|recipes|docs)\/[\w./-]+)`/g);
  expect(cited.filter((file) => !existsSync(path.join(ROOT, file)))).toEqual([]);
});
