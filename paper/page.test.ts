import { expect, test } from "vitest";
import { inputError } from "../test/errors.js";
import { chart } from "./chart.js";
import { METHODS, settingsOf } from "./methods.js";
import { fillIn, table } from "./page.js";

test("a table is written between its marks, also a second time, and the rest of the page is unchanged", () => {
  const page = "before\n<!-- a: begin -->\n<!-- a: end -->\nafter\n";
  const once = fillIn(page, "a", table(["x"], [["1"]]));
  expect(once).toBe("before\n<!-- a: begin -->\n\n| x |\n| --- |\n| 1 |\n\n<!-- a: end -->\nafter\n");
  expect(fillIn(once, "a", table(["x"], [["1"]]))).toBe(once);
  expect(() => fillIn(page, "b", "")).toThrow(
    inputError("file-malformed", { expected: ["<!-- b: begin -->", "<!-- b: end -->"] }),
  );
});

test("a chart with a logarithmic axis leaves out points at 0 and escapes its labels", () => {
  const points = [
    { x: 0, y: 1 },
    { x: 10, y: 2, spread: 0.5 },
    { x: 1000, y: 3 },
  ];
  const svg = chart({ title: "a < b", x: "x", y: "y", scale: "log", series: [{ label: "one & two", points }] });
  expect(svg.match(/<circle/g)).toHaveLength(2);
  expect(svg).not.toContain("NaN");
  expect(svg).toContain("a &#60; b");
  expect(svg).toContain("one &#38; two");
  // A logarithmic axis begins at its smallest point.
  const x = (i: number) => Number([...svg.matchAll(/cx="([\d.]+)"/g)][i]?.[1]);
  expect(x(0)).toBe(58);
  expect(x(1)).toBe(536);
});

test("every method has valid settings, with the same prompts, evaluation and sampling as the others", async () => {
  const all = await Promise.all(METHODS.map((method) => settingsOf({ method, rate: 0.25, seed: 3 })));
  for (const [i, settings] of all.entries()) {
    expect(settings.optimizer.learning_rate).toBe(0.25);
    expect(settings.seed).toBe(3);
    expect(settings.batch.total).toBe(METHODS[i]?.samples);
    expect(settings.prompts).toEqual(all[0]?.prompts);
    expect(settings.evaluation).toEqual(all[0]?.evaluation);
    expect({ ...settings.sampling, eta: 0 }).toEqual(all[0]?.sampling);
  }
  expect(new Set(METHODS.map(({ name }) => name)).size).toBe(METHODS.length);
});
