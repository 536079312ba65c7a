import { describe, expect, test } from "vitest";
import { Rng } from "../tensor/rng.js";
import { ddimSteps, readSchedulerConfig } from "./ddim.js";
import { type Denoiser, forward, type KeepMask, pullback, type VjpCall } from "./trajectory.js";

const config = readSchedulerConfig({ beta_schedule: "scaled_linear", clip_sample: false }, "test");
const steps = ddimSteps(config, 5);
const batch = 2;
const rowSize = 3;

/** A U-Net with two parameters: ε̂_j = tanh(p · x_j + q · (step + 1)). */
function analytic([p, q]: readonly [number, number]) {
  const gradient = new Float64Array(2);
  const calls: Pick<VjpCall, "step" | "samples" | "wantsDx">[] = [];
  const activation = (x: number, step: number) => Math.tanh(p * x + q * (step + 1));
  const denoiser: Denoiser = {
    predict: async (x, step) => x.map((value) => activation(value, step)),
    vjp: async ({ step, samples, x, upstream, wantsDx }) => {
      calls.push({ step, samples, wantsDx });
      // dε̂/dx = (1 − ε̂²) p, dε̂/dp = (1 − ε̂²) x, dε̂/dq = (1 − ε̂²) (step + 1)
      const local = upstream.map((u, j) => u * (1 - activation(x[j] as number, step) ** 2));
      const sum = (values: Float32Array) => values.reduce((total, value) => total + value, 0);
      gradient[0] = (gradient[0] as number) + sum(local.map((l, j) => l * (x[j] as number)));
      gradient[1] = (gradient[1] as number) + sum(local) * (step + 1);
      return { dx: wantsDx ? local.map((l) => l * p) : null };
    },
  };
  return { denoiser, gradient, calls, activation };
}

/** L = Σ x_0² / 2 in float64. Dropped steps use the outputs recorded at the unperturbed parameters. */
function truncatedLoss(
  [p, q]: readonly [number, number],
  initial: Float32Array,
  keep: KeepMask,
  recorded?: number[][],
) {
  const { activation } = analytic([p, q]);
  const outputs: number[][] = [];
  let x = [...initial];
  for (const [i, { a, b }] of steps.entries()) {
    const output = x.map((value, j) => {
      const kept = keep[Math.floor(j / rowSize)]?.[i];
      return recorded && !kept ? (recorded[i]?.[j] as number) : activation(value, i);
    });
    outputs.push(output);
    x = x.map((value, j) => a * value + b * (output[j] as number));
  }
  return { loss: x.reduce((total, value) => total + value ** 2 / 2, 0), outputs };
}

const masks: Record<string, KeepMask> = {
  "every step": [
    [true, true, true, true, true],
    [true, true, true, true, true],
  ],
  "the last step only": [
    [false, false, false, false, true],
    [false, false, false, false, true],
  ],
  "scattered steps that differ between the samples": [
    [false, true, false, false, true],
    [false, false, false, true, false],
  ],
};

describe("pullback", () => {
  for (const [name, keep] of Object.entries(masks)) {
    test(`agrees with finite differences when it keeps ${name}`, async () => {
      const parameters = [0.7, -0.2] as const;
      const initial = new Rng(1).normals(batch * rowSize);
      const { denoiser, gradient } = analytic(parameters);
      const trajectory = await forward(steps, denoiser, initial, () => initial);
      await pullback(steps, denoiser, trajectory, { dFinal: trajectory.final, keep }); // dL/dx_0 = x_0

      const { outputs } = truncatedLoss(parameters, initial, keep);
      const h = 1e-5;
      for (const index of [0, 1]) {
        const shifted = (sign: number) =>
          parameters.map((value, i) => (i === index ? value + sign * h : value)) as [number, number];
        const high = truncatedLoss(shifted(1), initial, keep, outputs).loss;
        const low = truncatedLoss(shifted(-1), initial, keep, outputs).loss;
        const numeric = (high - low) / (2 * h);
        expect(Math.abs((gradient[index] as number) - numeric)).toBeLessThan(1e-4 * Math.abs(numeric));
      }
    });
  }

  test("computes VJPs only for images that keep a step, and dx only if one of them keeps an earlier step", async () => {
    const { denoiser, calls } = analytic([0.7, -0.2]);
    const trajectory = await forward(steps, denoiser, new Rng(1).normals(batch * rowSize), () => new Float32Array());
    const keep = masks["scattered steps that differ between the samples"] as KeepMask;
    await pullback(steps, denoiser, trajectory, { dFinal: trajectory.final, keep });
    expect(calls).toEqual([
      { step: 4, samples: [0], wantsDx: true },
      { step: 3, samples: [1], wantsDx: false },
      { step: 1, samples: [0], wantsDx: false },
    ]);
  });

  test("leaves the gradient at zero when every step is dropped", async () => {
    const { denoiser, gradient, calls } = analytic([0.7, -0.2]);
    const trajectory = await forward(steps, denoiser, new Rng(1).normals(batch * rowSize), () => new Float32Array());
    await pullback(steps, denoiser, trajectory, { dFinal: trajectory.final, keep: [[], []] });
    expect([...gradient, ...calls]).toEqual([0, 0]);
  });
});

describe("forward", () => {
  test("stores x_t of each step and adds sigma z if eta is positive", async () => {
    // If the U-Net predicts 0, x_{t-1} = a x_t + σ z.
    const noisy = ddimSteps(config, 5, { eta: 1 });
    const silent = { predict: async (x: Float32Array) => new Float32Array(x.length) };
    const { latents, final } = await forward(noisy, silent, Float32Array.of(1), (i) => Float32Array.of(i));
    let x = 1;
    for (const [i, { a, sigma }] of noisy.entries()) {
      expect(latents[i]?.[0]).toBeCloseTo(x, 5);
      x = a * x + sigma * i;
    }
    expect(final[0]).toBeCloseTo(x, 5);
  });
});
