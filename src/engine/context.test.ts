import { describe, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import {
  expectedChain,
  FAKE_STEPS,
  FakeEngine,
  type FakeEngineOptions,
  fakeSamples,
  fakeStep,
} from "../../test/fake-engine.js";
import { addChainGradient } from "../estimators/alignprop.js";
import type { EstimatorContext, TrainingSample, UnetCall } from "../estimators/index.js";
import { EngineContext } from "./context.js";
import type { GradientRequest } from "./gradient.js";
import { Float16Overflow } from "./loss-scale.js";
import { inBatches } from "./samples.js";

interface Open extends FakeEngineOptions {
  readonly request?: Partial<GradientRequest>;
  readonly overflowed?: boolean;
}

/** A context of one group on a fake engine. w = 2 and p = 1 unless the request says otherwise. */
function open(samples: readonly TrainingSample[], { request, overflowed = false, ...options }: Open = {}) {
  const globalBatchSize = request?.globalBatchSize ?? samples.length;
  const engine = new FakeEngine({ globalBatchSize, ...options });
  const gradient = new Float64Array(2);
  const context = new EngineContext(engine, {
    group: inBatches(samples, engine.batch),
    request: { parameters: Float32Array.of(2, 1), globalBatchSize, ...request },
    rewardName: "distance",
    gradient,
    overflowed,
  });
  return { engine, context, gradient };
}

const FOUR = fakeSamples([
  { prompt: 1, x: [1, -1] },
  { prompt: 2, x: [0.5, 2] },
  { prompt: 3, x: [-0.5, 0] },
  { prompt: 4, x: [0, 1] },
]);

describe("sample", () => {
  test("runs the chain, and stores x_t of every step", async () => {
    // output = 2 x + (c + t) with c = 1:  x = 1 → output 3,  1 + 3/2 = 2.5 → output 7,  2.5/2 + 14 = 15.25
    const { context, engine } = open(fakeSamples([{ prompt: 1, x: [1] }]), {
      steps: FAKE_STEPS.slice(0, 2),
      batch: 1,
      latentElements: 1,
    });
    const { latents, final, outputs } = await context.sample({ outputs: true });
    expect(latents).toEqual([Float32Array.of(1), Float32Array.of(2.5)]);
    expect(final).toEqual(Float32Array.of(15.25));
    expect(outputs).toEqual([Float32Array.of(3), Float32Array.of(7)]);
    expect(engine.forwardCalls).toBe(2);
  });

  test.each([1, 2, 4])("gives each sample its own prompt and noise, in micro-batches of %i", async (batch) => {
    const noisy = fakeSamples(
      [1, 2, 3, 4].map((prompt) => ({ prompt, x: [prompt / 2, -prompt], z: prompt / 4, mask: "xx" })),
    );
    const steps = [fakeStep(1, 0.5, { sigma: 2 }), fakeStep(0.5, 2)];
    const { context } = open(noisy, { batch, steps });
    const { final } = await context.sample();
    expect([...final]).toEqual(expectedChain(noisy, [2, 1], { steps }).final);
  });

  test("ends each micro-batch at the last step that one of its samples needs", async () => {
    const { context, engine } = open(FOUR);
    const whole = await open(FOUR).context.sample();
    const { latents, final } = await context.sample({ until: [0, 1, 2, 0] });
    expect(engine.forwardCalls).toBe(2 + 3);
    // The first micro-batch has no latents after step 1, and so no x_0.
    expect(latents[1]).toEqual(whole.latents[1]);
    expect(latents[2]).toEqual(Float32Array.of(0, 0, 0, 0, ...(whole.latents[2]?.subarray(4) ?? [])));
    expect(final).toEqual(Float32Array.of(0, 0, 0, 0, ...whole.final.subarray(4)));
  });

  test("takes other parameters, and saves no residuals for them", async () => {
    const { context, engine } = open(FOUR, { maxSavedCalls: 9 });
    const { final } = await context.sample({ parameters: Float32Array.of(-1, 0.5) });
    expect([...final]).toEqual(expectedChain(FOUR, [-1, 0.5]).final);
    expect(engine.mostHeld).toBe(0);
  });

  test("stores outputs at the steps that a mask keeps, if they are wanted or there is a KL penalty", async () => {
    const samples = fakeSamples([
      { prompt: 1, x: [1, 1], mask: "..x" },
      { prompt: 2, x: [1, 1], mask: ".x." },
    ]);
    const stored = async (options: Open, wanted?: boolean) => {
      const { outputs } = await open(samples, options).context.sample({ outputs: wanted });
      return outputs?.map((output) => output !== undefined);
    };
    expect(await stored({})).toEqual([false, false, false]);
    expect(await stored({}, true)).toEqual([false, true, true]);
    expect(await stored({ request: { klWeight: 1 } })).toEqual([false, true, true]);
    expect(await stored({ request: { klWeight: 1 } }, false)).toEqual([false, false, false]);
  });
});

describe("the gradient of a chain", () => {
  test("is that of the formula", async () => {
    // The chain of the first test above, with g = dL/dx_0 = x_0 − c = 14.25:
    //   dL/dw = g (b₁ x₁ + (a₁ + b₁ w) b₀ x₀)      = g (2 · 2.5 + 4.5 · 0.5 · 1)   = 7.25 g
    //   dL/dp = g (b₁ (c + 1) + (a₁ + b₁ w) b₀ c)  = g (2 · 2   + 4.5 · 0.5 · 1)   = 6.25 g
    const { context, gradient } = open(fakeSamples([{ prompt: 1, x: [1], mask: "xx" }]), {
      steps: FAKE_STEPS.slice(0, 2),
      batch: 1,
      latentElements: 1,
    });
    await addChainGradient(context);
    expect([...gradient]).toEqual([7.25 * 14.25, 6.25 * 14.25]);
    expect(context.losses).toEqual([14.25 ** 2 / 2]);
    expect(context.rewards).toEqual([-(14.25 ** 2) / 2]);
  });

  const masks = {
    "every step": ["xxx", "xxx"],
    "the same two steps": ["x.x", "x.x"],
    "steps of their own": ["x.x", ".xx"],
  };
  for (const [name, [even, odd]] of Object.entries(masks)) {
    test.each([0, 1, 3, 9])(
      `is the same with residuals of at most %i calls, where samples keep ${name}`,
      async (limit) => {
        const samples = FOUR.map((sample, i) => ({
          ...sample,
          mask: [...((i % 2 === 0 ? even : odd) as string)].map((mark) => mark === "x"),
        }));
        const { context, engine, gradient } = open(samples, { maxSavedCalls: limit });
        await addChainGradient(context);
        expect(gradient).toEqual(expectedChain(samples, [2, 1]).gradient);
        expect(engine.mostHeld).toBeLessThanOrEqual(limit);
        // All that was saved is also used, so nothing is left to release.
        expect(engine.held).toBe(0);
        expect(engine.backwardSaved > 0).toBe(limit > 0);
      },
    );
  }

  test("uses the residuals of the last steps first", async () => {
    // Two micro-batches and three steps: 6 calls. Residuals of 4 of them are saved; the other 2 are recomputed.
    const { context, engine } = open(FOUR, { maxSavedCalls: 4 });
    await addChainGradient(context);
    expect([engine.mostHeld, engine.backwardSaved, engine.backwardRecomputed]).toEqual([4, 4, 2]);
  });

  test("fills its calls with samples of all micro-batches that keep the step", async () => {
    // Two of four samples keep the first step, one in each micro-batch: one backward call of two samples.
    const samples = FOUR.map((sample, i) => ({ ...sample, mask: [i % 2 === 0, false, false] }));
    const { context, engine, gradient } = open(samples, { maxSavedCalls: 9 });
    await addChainGradient(context);
    expect(gradient).toEqual(expectedChain(samples, [2, 1]).gradient);
    expect([engine.backwardSaved, engine.backwardRecomputed]).toEqual([0, 1]);
  });

  test.each(["the first", "the second"])(
    "belongs to %s trajectory, if that is passed after two samplings",
    async (which) => {
      // Both samplings save residuals of the same samples at step 2. Those of one must not serve the other.
      let first = 1;
      const samples = FOUR.slice(0, 2).map((sample) => ({
        ...sample,
        noise: () => ({ initial: Float32Array.of(first, 1), step: () => new Float32Array(2) }),
      }));
      const { context, engine, gradient } = open(samples, { maxSavedCalls: 9 });
      const once = await context.sample();
      first = 8;
      const twice = await context.sample();
      const x = (which === "the first" ? once : twice).latents[2] as Float32Array;
      await context.vjp({ step: 2, samples: [0, 1], x, upstream: Float32Array.of(1, 1, 1, 1), wantsDx: false });
      // dL/dw = Σ x,  dL/dp = 2 (1 + 2) + 2 (2 + 2)
      expect([...gradient]).toEqual([x.reduce((sum, value) => sum + value, 0), 14]);
      expect([engine.backwardSaved, engine.held]).toEqual([1, 5]);
    },
  );

  test("counts once after two samplings with the same noise", async () => {
    const { context, gradient } = open(FOUR.slice(0, 2), { maxSavedCalls: 9 });
    await context.sample();
    await addChainGradient(context);
    expect(gradient).toEqual(expectedChain(FOUR.slice(0, 2), [2, 1]).gradient);
  });
});

describe("callUnet", () => {
  test("divides any selection of samples into calls, of which the last may be incomplete", async () => {
    // Samples 3, 0 and 2 (c = 4, 1, 3) at step 1, in micro-batches of two. output = 2 x + c + 1.
    const { context, engine, gradient } = open(FOUR, { maxSavedCalls: 9 });
    const x = Float32Array.of(1, 2, 3, 4, 5, 6);
    const call = await context.callUnet({ step: 1, samples: [3, 0, 2], x, wantsDx: true });
    expect([...call.output]).toEqual([2 + 5, 4 + 5, 6 + 2, 8 + 2, 10 + 4, 12 + 4]);
    const { dx } = await call.backward(Float32Array.of(1, 0, 0, 2, 0, -1));
    // dL/dw = 1 · 1 + 2 · 4 − 1 · 6,  dL/dp = 1 · 5 + 2 · 2 − 1 · 4,  dL/dx = 2 · upstream
    expect([...gradient]).toEqual([3, 5]);
    expect([...(dx ?? [])]).toEqual([2, 0, 0, 4, 0, -2]);
    expect([engine.forwardCalls, engine.backwardSaved, engine.held]).toEqual([2, 2, 0]);
  });

  test.each([0, 9])("takes a sample several times, with residuals of at most %i calls", async (maxSavedCalls) => {
    // Sample 1 (c = 2) twice and sample 0 (c = 1) once, at step 0. output = 2 x + c.
    const { context, gradient } = open(FOUR, { maxSavedCalls });
    const x = Float32Array.of(1, 2, 3, 4, 5, 6);
    const call = await context.callUnet({ step: 0, samples: [1, 1, 0], x, wantsDx: true });
    expect([...call.output]).toEqual([4, 6, 8, 10, 11, 13]);
    const { dx } = await call.backward(Float32Array.of(1, 0, 2, 0, 4, 0));
    // dL/dw = 1 · 1 + 2 · 3 + 4 · 5,  dL/dp = 1 · 2 + 2 · 2 + 4 · 1
    expect([...gradient]).toEqual([27, 10]);
    expect([...(dx ?? [])]).toEqual([2, 0, 4, 0, 8, 0]);
  });

  test("returns dL/dx only if it is wanted", async () => {
    const { context } = open(FOUR.slice(0, 2));
    const call = await context.callUnet({ step: 0, x: new Float32Array(4) });
    expect(await call.backward(new Float32Array(4))).toEqual({ dx: null });
  });

  test("with other parameters returns dL/dx, and adds nothing to the gradient", async () => {
    const { context, gradient } = open(FOUR.slice(0, 2), { request: { klWeight: 1 } });
    const parameters = Float32Array.of(-3, 0.5);
    const call = await context.callUnet({ step: 0, x: Float32Array.of(1, 1, 1, 1), parameters, wantsDx: true });
    expect([...call.output]).toEqual([-2.5, -2.5, -2, -2]);
    const { dx } = await call.backward(Float32Array.of(1, 2, 3, 4));
    expect([...(dx ?? [])]).toEqual([-3, -6, -9, -12]);
    expect([...gradient]).toEqual([0, 0]);
    expect(context.divergence).toBe(0);
  });
});

describe("the bound on saved residuals", () => {
  const rows = [0, 1, 2, 3, 4];
  const x = (n: number) => Float32Array.of(n, 1, 2, n);
  /** Five calls first, then five backward calls. L = Σ over calls n of n · Σ outputs. */
  const inTurn = async (context: EstimatorContext) => {
    const calls: UnetCall[] = [];
    for (const n of rows) calls.push(await context.callUnet({ step: n % 3, x: x(n) }));
    for (const [n, call] of calls.entries()) await call.backward(new Float32Array(4).fill(n));
  };
  const sideBySide = async (context: EstimatorContext) => {
    const calls = await Promise.all(rows.map((n) => context.callUnet({ step: n % 3, x: x(n) })));
    await Promise.all(calls.map((call, n) => call.backward(new Float32Array(4).fill(n))));
  };
  const afterSampling = async (context: EstimatorContext) => {
    await context.sample();
    await inTurn(context);
  };
  const whileSampling = async (context: EstimatorContext) => {
    await Promise.all([context.sample(), inTurn(context)]);
  };
  // dL/dw = Σ n (2n + 3) = 2 · 30 + 3 · 10
  // dL/dp = Σ n (2 (1 + t) + 2 (2 + t)) = Σ n (6 + 4t) = 6 · 10 + 4 (1 · 1 + 2 · 2 + 3 · 0 + 4 · 1)
  const expected = [90, 96];

  for (const estimator of [inTurn, sideBySide, afterSampling, whileSampling]) {
    test.each([0, 1, 2, 5])(`holds for five calls ${estimator.name}, with a limit of %i`, async (limit) => {
      const { context, engine, gradient } = open(FOUR.slice(0, 2), { maxSavedCalls: limit });
      await estimator(context);
      expect([...gradient]).toEqual(expected);
      expect(engine.mostHeld).toBe(limit);
      expect(engine.backwardSaved + engine.backwardRecomputed).toBe(5);
      await context.release();
      expect(engine.held).toBe(0);
    });
  }

  test("has room again as soon as a backward call has used its residuals", async () => {
    const { context, engine } = open(FOUR.slice(0, 2), { maxSavedCalls: 1 });
    for (const n of rows) {
      const call = await context.callUnet({ step: 0, x: x(n) });
      await call.backward(new Float32Array(4));
    }
    expect([engine.mostHeld, engine.backwardSaved, engine.backwardRecomputed]).toEqual([1, 5, 0]);
  });

  test("counts calls with other parameters as well", async () => {
    const { context, engine } = open(FOUR.slice(0, 2), { maxSavedCalls: 2 });
    const parameters = Float32Array.of(1, 1);
    for (const n of rows) await context.callUnet({ step: 0, x: x(n), ...(n % 2 === 0 && { parameters }) });
    expect([engine.mostHeld, engine.held]).toEqual([2, 2]);
    await context.release();
    expect(engine.held).toBe(0);
  });
});

describe("the KL penalty", () => {
  // w = 2, p = 1 against a base of w₀ = 1.5, p₀ = 0.5. At step 1, with ε̂ = n · output:
  //   d = ε̂ − ε̂_base = n (½ x + ½ (c + 1))
  const n = 0.5;
  const steps = [fakeStep(1, 0.5), fakeStep(0.5, 2, { noise: { x: 1, output: n } })];
  const request = { baseParameters: Float32Array.of(1.5, 0.5), klWeight: 0.25, globalBatchSize: 8 };
  const samples = fakeSamples([
    { prompt: 1, x: [1, -1], mask: ".x" },
    { prompt: 3, x: [2, 0], mask: ".x" },
  ]);
  const x = Float32Array.of(2, 4, -2, 0);
  // c + 1 is 2, 2, 4, 4, so d = ½ · (2, 3, 1, 2)
  const d = [1, 1.5, 0.5, 1];
  // Σ over samples of mean(d²)
  const divergence = (1 + 2.25 + 0.25 + 1) / 2;
  // L = klWeight / globalBatchSize · Σ mean(d²), and so d L/d output = 2 · klWeight / (8 · 2) · n · d
  const upstream = d.map((value) => (2 * 0.25 * n * value) / (8 * 2));
  const dot = (values: readonly number[]) => upstream.reduce((sum, value, j) => sum + value * (values[j] as number), 0);
  const expected = [dot([...x]), dot([2, 2, 4, 4])];

  test("adds its gradient to every differentiated call, and sums the divergence", async () => {
    const { context, gradient } = open(samples, { steps, request });
    const call = await context.callUnet({ step: 1, x });
    await call.backward(new Float32Array(4));
    expect([...gradient]).toEqual(expected);
    expect(context.divergence).toBe(divergence);
  });

  test("adds to the upstream gradient and does not change the caller's array", async () => {
    const { context, gradient } = open(samples, { steps, request });
    const call = await context.callUnet({ step: 1, x });
    const own = Float32Array.of(1, 0, 0, 2);
    await call.backward(own);
    expect([...own]).toEqual([1, 0, 0, 2]);
    // Without the penalty: dL/dw = 1 · 2 + 2 · 0,  dL/dp = 1 · 2 + 2 · 4
    expect([...gradient]).toEqual([2 + (expected[0] as number), 10 + (expected[1] as number)]);
  });

  test("needs one U-Net call more where the output was not stored, for the same gradient", async () => {
    const found = [];
    for (const outputs of [true, false]) {
      const { context, gradient, engine } = open(samples, { steps, request });
      const trajectory = await context.sample({ outputs });
      const own = { step: 1, samples: [0, 1], x: trajectory.latents[1] as Float32Array, wantsDx: false };
      await context.vjp({ ...own, output: trajectory.outputs?.[1], upstream: new Float32Array(4) });
      found.push({ gradient: [...gradient], divergence: context.divergence, calls: engine.forwardCalls });
    }
    expect(found[0]).toMatchObject({ calls: 2 + 1 });
    expect(found[1]).toEqual({ ...found[0], calls: 2 + 2 });
  });
});

describe("float16", () => {
  const x = Float32Array.of(1, 2, 3, 4);
  const backward = async (upstream: readonly number[], options: Open) => {
    const { context, gradient } = open(FOUR.slice(0, 2), { float16: true, ...options });
    const call = await context.callUnet({ step: 0, x, wantsDx: true });
    const { dx } = await call.backward(Float32Array.from(upstream));
    return { gradient: [...gradient], dx: [...(dx ?? [])] };
  };
  // Far below 2^-24, the smallest float16 number.
  const tiny = [2 ** -40, 0, 0, -(2 ** -41)];

  test("loses a small upstream gradient without a loss scale, and keeps it with one", async () => {
    expect((await backward(tiny, {})).gradient).toEqual([0, 0]);
    const found = await backward(tiny, { request: { lossScale: 2 ** 8 } });
    // dL/dw = (1 · 1 − ½ · 4) 2^-40,  dL/dp = (1 · 1 − ½ · 2) 2^-40,  dL/dx = 2 · upstream
    expect(found.gradient).toEqual([-(2 ** -40), 0]);
    expect(found.dx).toEqual([2 ** -39, 0, 0, -(2 ** -40)].map((value) => value + 0));
  });

  test("reports a gradient that overflows", async () => {
    // The scaled upstream is 2^15, and dL/dw = 2^15 · 1 + 2^14 · 4 > 65504.
    await expect(backward([1, 0, 0, 0.5], { request: { lossScale: 2 ** 15 } })).rejects.toThrow(Float16Overflow);
  });

  test("makes no backward call once the gradient has overflowed", async () => {
    const { context, engine } = open(FOUR.slice(0, 2), { overflowed: true, request: { lossScale: 256 } });
    const call = await context.callUnet({ step: 0, x });
    await expect(call.backward(x)).rejects.toThrow(Float16Overflow);
    expect(engine.backwardSaved + engine.backwardRecomputed).toBe(0);
  });
});

describe("the cost", () => {
  test("counts a forward call 1, a backward call 1, and 2 if it recomputes the forward pass", async () => {
    for (const [maxSavedCalls, each] of [
      [0, 2],
      [9, 1],
    ] as const) {
      const { context } = open(FOUR, { maxSavedCalls });
      await addChainGradient(context);
      expect(context.cost).toEqual({ unetCalls: 4 * 3 * (1 + each), rewardQueries: 4 });
    }
  });

  test("does not count the copies that fill an incomplete call", async () => {
    const { context } = open(FOUR);
    const call = await context.callUnet({ step: 0, samples: [0, 1, 2], x: new Float32Array(6) });
    await call.backward(new Float32Array(6));
    expect(context.cost).toEqual({ unetCalls: 3 * 3, rewardQueries: 0 });
  });

  test("counts the base model's calls for the KL penalty", async () => {
    const request = { klWeight: 1, baseParameters: Float32Array.of(2, 1) };
    const { context } = open(FOUR, { request });
    await addChainGradient(context);
    expect(context.cost.unetCalls).toBe(4 * 3 * (1 + 1 + 2));
  });
});

describe("scores", () => {
  test("follow the samples, and dL/dx_0 is that of the mean loss over the global batch", async () => {
    const { context, engine } = open(FOUR, { request: { globalBatchSize: 8 } });
    const { rewards, losses, dLatents } = await context.scoreWithGradient(Float32Array.of(2, 2, 2, 2, 2, 2, 2, 2));
    expect(engine.scored).toEqual([
      ["1", "2"],
      ["3", "4"],
    ]);
    // c = 1 … 4:  ½ Σ (2 − c)² = 1, 0, 1, 4
    expect([...losses]).toEqual([1, 0, 1, 4]);
    expect([...rewards]).toEqual([-1, -0, -1, -4]);
    expect([...dLatents]).toEqual([1, 1, 0, 0, -1, -1, -2, -2].map((value) => value / 8));
  });

  test("give the rewards of the first time and the mean loss of all times", async () => {
    const { context } = open(FOUR.slice(0, 2));
    await context.score(Float32Array.of(1, 1, 2, 4));
    await context.scoreWithGradient(Float32Array.of(3, 1, 2, 2));
    expect(context.rewards).toEqual([-0, -2]);
    expect(context.losses).toEqual([1, 1]);
    expect(context.cost).toEqual({ unetCalls: 0, rewardQueries: 4 });
  });

  test("that are not finite name the sample", async () => {
    const at = (...latents: number[]) => open(FOUR.slice(0, 2)).context.scoreWithGradient(Float32Array.from(latents));
    const facts = { reward: "distance", prompt: "2", sample: 1, epoch: 0 };
    await expect(at(1, 1, Number.NaN, 1)).rejects.toThrow(inputError("not-finite", facts));
    // The latents are finite, but not their square.
    await expect(at(1, 1, 1, 1e30)).rejects.toThrow(inputError("not-finite", facts));
  });
});

describe("an estimator that does what it did not declare", () => {
  test("is told to set usesBaseModel", () => {
    expect(() => open(FOUR).context.baseParameters).toThrow(/usesBaseModel/);
    const baseParameters = Float32Array.of(1, 1);
    expect(open(FOUR, { request: { baseParameters } }).context.baseParameters).toBe(baseParameters);
  });

  test("is told to return true from needsDx", async () => {
    const { context } = open(FOUR.slice(0, 2), { returnsDx: false });
    const call = await context.callUnet({ step: 0, x: new Float32Array(4), wantsDx: true });
    await expect(call.backward(new Float32Array(4))).rejects.toThrow(/needsDx/);
  });
});
