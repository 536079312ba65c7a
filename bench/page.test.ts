import { readFile } from "node:fs/promises";
import path from "node:path";
import { expect, test } from "vitest";
import { CASES } from "./cases/index.js";
import { page } from "./page.js";

const ROOT = path.join(import.meta.dirname, "..");

test("docs/performance.md is what `npm run bench -- --page` makes of the results", async () => {
  const made = await page(CASES, path.join(ROOT, "bench/results"));
  expect(await readFile(path.join(ROOT, "docs/performance.md"), "utf8")).toBe(made);
});

test("a page without results is refused", async () => {
  await expect(page(CASES, path.join(ROOT, "no-such-folder"))).rejects.toThrow("no results");
});
