import { describe, expect, test } from "vitest";
import { tinySettings } from "../../test/tiny.js";
import { conv2d, input, matmul } from "../ops/index.js";
import { plan } from "../train/plan.js";
import { flops } from "./flops.js";

describe("FLOPs", () => {
  test("of a matrix product are two per multiply-add", () => {
    const [a, b] = [input([2, 3, 4]), input([2, 4, 5])];
    expect(flops({ name: "product", inputs: { a, b }, outputs: { y: matmul(a, b) } })).toBe(2 * 2 * 3 * 4 * 5);
    const c = input([4, 3]);
    const y = matmul(c, input([4, 5]), { transposeA: true });
    expect(flops({ name: "transposed", inputs: { c }, outputs: { y } })).toBe(2 * 3 * 4 * 5);
  });

  test("of a convolution are those of one filter per output element", () => {
    const [x, weight] = [input([1, 4, 8, 8]), input([6, 4, 3, 3])];
    const y = conv2d(x, weight, undefined, { padding: 1 });
    expect(flops({ name: "convolution", inputs: { x, weight }, outputs: { y } })).toBe(2 * 6 * 8 * 8 * 4 * 9);
  });
});

describe("a plan", () => {
  test("does not need the weights of a reward, and lists it as uncounted", async () => {
    const reward = { name: "hps", weights: "no/such/folder" } as const;
    const counted = await plan(tinySettings({ reward }), { calibrate: false });
    expect(counted.uncounted).toEqual([
      expect.stringMatching(/^the hps reward, which cannot be opened here \(.*no\/such\/folder.*\)$/),
    ]);
    // It does not need prompts either.
    const prompts = { ...tinySettings().prompts, train: [], eval: [] };
    const promptless = await plan({ ...tinySettings({ reward }), prompts }, { calibrate: false });
    expect(promptless.unetBackwardCallsPerStep).toBe(counted.unetBackwardCallsPerStep);
    const whole = await plan(tinySettings(), { calibrate: false });
    expect([whole.uncounted, whole.unetForwardCallsPerStep]).toEqual([[], counted.unetForwardCallsPerStep]);
    expect(counted.flopsPerStep / whole.flopsPerStep).toBeCloseTo(1, 1);
  });

  test("counts calls, steps and evaluations", async () => {
    const settings = tinySettings({
      sampling: { steps: 5 },
      estimator: { truncation: { mode: "fixed", k: 2 } },
      batch: { samples_per_epoch: 12, total: 6, per_device: 2 },
      evaluation: { every: 3, seeds_per_prompt: 4 },
      steps: 7,
    });
    const counted = await plan(settings, { calibrate: false });
    expect(counted).toMatchObject({
      reward: "compressibility",
      steps: 7,
      samplesPerStep: 6,
      accumulation: 3,
      unetForwardCallsPerStep: 3 * 5,
      unetBackwardCallsPerStep: 3 * 2,
      evaluations: 4, // before step 1, after 3, 6 and 7
      imagesPerEvaluation: 4,
    });
    // 8 modules of mid_block and of each attention block; rank 2.
    expect(counted.trainableParameters).toBeGreaterThan(0);
    expect(counted.flopsPerStep).toBeGreaterThan(0);
    expect(counted.estimate).toBeUndefined();
  });

  test("counts a backward call for every sample and step that the masks of the run keep", async () => {
    const changes = { sampling: { steps: 10 }, batch: { samples_per_epoch: 64, total: 64, per_device: 4 } };
    for (const mode of ["uniform", "per-step"] as const) {
      const settings = tinySettings({ ...changes, estimator: { truncation: { mode } } });
      const { unetBackwardCallsPerStep } = await plan(settings, { calibrate: false });
      // A sample keeps (1 + … + 10) / 11 = 5 steps on average: 64 · 5 / 4 = 80 calls. At each step the last call may be incomplete.
      expect(Math.abs(unetBackwardCallsPerStep - 85)).toBeLessThan(8);
    }
  });

  test("estimates time and memory from a calibration", async () => {
    const { estimate, steps, evaluations } = await plan(tinySettings());
    if (!estimate) throw new Error("no estimate");
    expect(estimate.seconds).toBeCloseTo(
      steps * estimate.secondsPerStep + evaluations * estimate.secondsPerEvaluation,
      6,
    );
    expect(estimate.secondsPerStep).toBeGreaterThan(0);
  });
});
