import { afterAll, beforeAll, expect, test } from "vitest";
import { rankCorrelation } from "../../../test/jpeg-ranks.js";
import { spearman } from "../../../test/varied-images.js";
import { Runtime } from "../../runtime/runtime.js";

let runtime: Runtime;
beforeAll(async () => {
  runtime = await Runtime.start({ threads: 1 });
});
afterAll(() => runtime.close());

// `node dist/bench/jpeg-rank.js` does the same for 200 images.
test.each([50, 75, 95])("the estimate ranks 40 varied images like libjpeg's files of quality %i", async (quality) => {
  const { correlation, smallest, largest } = await rankCorrelation(runtime, { count: 40, size: 48, quality });
  expect(largest).toBeGreaterThan(2.5 * smallest);
  expect(correlation).toBeGreaterThan(0.95);
});

test("rank correlation depends on the order alone, and equal values share their rank", () => {
  expect(spearman([1, 2, 30], [5, 6, 7])).toBe(1);
  expect(spearman([1, 2, 3], [3, 2, 1])).toBe(-1);
  // Ranks 0, 1.5, 1.5, 3 and 0, 1, 2, 3: 4.5 / √(4.5 · 5)
  expect(spearman([1, 2, 2, 3], [1, 2, 3, 4])).toBeCloseTo(4.5 / Math.sqrt(4.5 * 5), 12);
});
