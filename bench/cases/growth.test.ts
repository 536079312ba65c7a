import { expect, test } from "vitest";
import type { Measurement } from "./case.js";
import { growthCase } from "./growth.js";

const CONTEXT = { folder: "", threads: 2, python: undefined };

/** Results of all jobs: seconds and bytes as functions of the numbers in a variant's name. */
async function measured(
  seconds: (work: Record<string, number>) => number,
  bytes: (work: Record<string, number>) => number,
) {
  return (await growthCase.jobs(CONTEXT)).map(({ side, variant }): Measurement => {
    const work = Object.fromEntries(
      variant.split(", ").map((part) => [part.split(" ")[0], Number(part.split(" ")[1])]),
    );
    return {
      side,
      variant,
      round: 0,
      began: "",
      wall_seconds: 1,
      peak_rss_bytes: bytes(work),
      peak_pinned_bytes: bytes(work),
      load: { average_before: 0, busy_before: 0, others: 0, stolen: 0 },
      report: { seconds: [seconds(work)] },
    };
  });
}

test("time that is linear in K has a line with R² of 1", async () => {
  const shown = growthCase
    .show(
      await measured(
        ({ k = 0 }) => 2 + 3 * k,
        () => 1e9,
      ),
    )
    .join("\n");
  expect(shown).toContain("A training step takes 2.00 s + 3.00 s x K (least squares, R² = 1.0000)");
});

test("a peak that grows with the number of denoising steps is noticed", async () => {
  const steady = growthCase.show(
    await measured(
      () => 1,
      ({ steps = 0 }) => 1e9 + 1e5 * steps,
    ),
  );
  expect(steady.at(-1)).toContain("the peaks vary by at most 0.1 %, within 2 %");
  const growing = growthCase.show(
    await measured(
      () => 1,
      ({ steps = 0 }) => 1e9 + 1e7 * steps,
    ),
  );
  expect(growing.at(-1)).toContain("NOT within 2 %");
});

test("results that are not there yet give no line and no ratio", () => {
  const shown = growthCase.show([]).join("\n");
  expect(shown).not.toContain("NaN");
  expect(shown).not.toContain("least squares");
});
