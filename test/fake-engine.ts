/**
 * An engine in closed form, so that tests of `src/engine` need no runtime. Its "U-Net" has two parameters, w and p. With c the
 * number in a sample's prompt and t the index of the denoising step, each element of the latents is computed by itself:
 *
 *     output = w · x + p · (c + t)      dL/dw = Σ upstream · x      dL/dp = Σ upstream · (c + t)      dL/dx = w · upstream
 *     loss   = ½ Σ (x_0 − c)²           dL/dx_0 = (x_0 − c) / globalBatchSize                         reward = −loss
 */
import type { DdimStep } from "../src/diffusion/ddim.js";
import type { BackwardCall, Engine, ForwardResult, VjpResult } from "../src/engine/engine.js";
import type { RolloutEstimator, TrainingSample } from "../src/estimators/index.js";
import { layoutOf } from "../src/nn/lora.js";
import type { ConditioningInputs, TrainableLayout } from "../src/pipeline/index.js";
import type { BatchGradients, BatchLosses } from "../src/rewards/index.js";
import type { SavedOutputs } from "../src/runtime/runtime.js";
import { halfToNumber, numberToHalf } from "../src/tensor/dtype.js";
import { float32, toFloat32 } from "../src/tensor/host.js";
import { Rng } from "../src/tensor/rng.js";

/** w and p as the parameters of an adapter of rank 1: A is w, B is p. */
export const FAKE_LAYOUT: TrainableLayout = layoutOf([["unet.to_q", { layer: { weight: [1, 1] }, rank: 1, scale: 1 }]]);

/** A step of the chain, x_{t-1} = a · x_t + b · output + σ · z, where the U-Net predicts the noise. */
export function fakeStep(a: number, b: number, more: Partial<DdimStep> = {}): DdimStep {
  return {
    timestep: 0,
    a,
    b,
    sigma: 0,
    alphaBar: 0.25,
    sample: { x: 2, output: -1 },
    noise: { x: 0, output: 1 },
    ...more,
  };
}

/** Three steps whose coefficients are powers of two, so that float32 rounds nothing in a test. */
export const FAKE_STEPS: readonly DdimStep[] = [fakeStep(1, 0.5), fakeStep(0.5, 2), fakeStep(2, -0.25)];

export interface FakeSample {
  /** c */
  readonly prompt: number;
  /** Initial latents. */
  readonly x: readonly number[];
  /** "x" at each step that is differentiated; all when left out. */
  readonly mask?: string;
  /** The same noise in every element, times the step's index + 1. */
  readonly z?: number;
}

export function fakeSamples(rows: readonly FakeSample[]): TrainingSample[] {
  return rows.map(({ prompt, x, mask = "xxx", z = 0 }, index) => ({
    epoch: 0,
    index,
    prompt: String(prompt),
    mask: [...mask].map((mark) => mark === "x"),
    noise: () => ({ initial: Float32Array.from(x), step: (t) => new Float32Array(x.length).fill(z * (t + 1)) }),
    rng: (...use) => new Rng(0, index, ...use),
  }));
}

export interface FakeEngineOptions {
  readonly steps?: readonly DdimStep[];
  readonly batch?: number;
  readonly latentElements?: number;
  readonly maxSavedCalls?: number;
  /** Divides dL/dx_0. */
  readonly globalBatchSize?: number;
  /** Return dL/dx, as if the estimator `needsDx`. */
  readonly returnsDx?: boolean;
  /** Round the upstream gradient and the VJP's results to float16. */
  readonly float16?: boolean;
}

interface Residuals {
  readonly x: Float32Array;
  readonly step: number;
  readonly conditioning: ConditioningInputs;
}

export class FakeEngine implements Engine {
  readonly steps: readonly DdimStep[];
  readonly batch: number;
  readonly latentElements: number;
  readonly parameterCount = 2;
  readonly maxSavedCalls: number;
  forwardCalls = 0;
  backwardSaved = 0;
  backwardRecomputed = 0;
  scoreCalls = 0;
  /** The largest number of calls whose residuals were held at the same time. */
  mostHeld = 0;
  /** Prompts of each call of `score` and `scoreWithGradient`. */
  readonly scored: string[][] = [];
  private readonly residuals = new Map<SavedOutputs, Residuals>();
  private readonly globalBatchSize: number;
  private readonly returnsDx: boolean;
  private readonly float16: boolean;

  constructor(options: FakeEngineOptions = {}) {
    this.steps = options.steps ?? FAKE_STEPS;
    this.batch = options.batch ?? 2;
    this.latentElements = options.latentElements ?? 2;
    this.maxSavedCalls = options.maxSavedCalls ?? 0;
    this.globalBatchSize = options.globalBatchSize ?? 1;
    this.returnsDx = options.returnsDx ?? true;
    this.float16 = options.float16 ?? false;
  }

  /** Number of calls whose residuals are held now. */
  get held(): number {
    return this.residuals.size;
  }

  async condition(prompts: readonly string[], parameters: Float32Array): Promise<ConditioningInputs> {
    this.requireBatch(prompts.length);
    return {
      prompts: float32(Float32Array.from(prompts, Number), [prompts.length]),
      parameters: float32(parameters, [parameters.length]),
    };
  }

  async forward(
    conditioning: ConditioningInputs,
    x: Float32Array,
    step: number,
    save: boolean,
  ): Promise<ForwardResult> {
    this.requireBatch(x.length / this.latentElements);
    this.forwardCalls++;
    const { w, p, conditionOf } = this.read(conditioning);
    const output = x.map((value, j) => w * value + p * (conditionOf(j) + step));
    // A real call takes a while, and other calls may start in the meantime.
    await new Promise(setImmediate);
    if (!save) return { output };
    const residuals: SavedOutputs = {
      outputs: {},
      bytes: 0,
      release: async () => {
        this.residuals.delete(residuals);
      },
    };
    this.residuals.set(residuals, { x: x.slice(), step, conditioning });
    this.mostHeld = Math.max(this.mostHeld, this.held);
    return { output, residuals };
  }

  /** From residuals, the gradient is that of the call that saved them, whatever `x` and `step` are now. */
  async backward(conditioning: ConditioningInputs, call: BackwardCall): Promise<VjpResult> {
    this.requireBatch(call.x.length / this.latentElements);
    if (call.residuals) this.backwardSaved++;
    else this.backwardRecomputed++;
    const from = call.residuals ? this.residuals.get(call.residuals) : { x: call.x, step: call.step, conditioning };
    if (!from) throw new Error("these residuals were released");
    const { w, conditionOf } = this.read(from.conditioning);
    const upstream = this.rounded(call.upstream);
    const dw = upstream.reduce((sum, value, j) => sum + value * (from.x[j] as number), 0);
    const dp = upstream.reduce((sum, value, j) => sum + value * (conditionOf(j) + from.step), 0);
    return {
      dParameters: this.rounded(Float32Array.of(dw, dp)),
      ...(this.returnsDx && { dx: this.rounded(upstream.map((value) => w * value)) }),
    };
  }

  async scoreWithGradient(latents: Float32Array, prompts: readonly string[]): Promise<BatchGradients> {
    const dLatents = latents.map((value, j) => (value - Number(prompts[this.sampleOf(j)])) / this.globalBatchSize);
    return { ...(await this.score(latents, prompts)), dLatents };
  }

  async score(latents: Float32Array, prompts: readonly string[]): Promise<BatchLosses> {
    this.requireBatch(prompts.length);
    this.scoreCalls++;
    this.scored.push([...prompts]);
    const losses = new Float32Array(prompts.length);
    for (const [j, value] of latents.entries()) {
      const i = this.sampleOf(j);
      losses[i] = (losses[i] as number) + (value - Number(prompts[i])) ** 2 / 2;
    }
    return { losses, rewards: losses.map((loss) => -loss) };
  }

  private read({ prompts, parameters }: ConditioningInputs) {
    const [w, p] = toFloat32(parameters as NonNullable<typeof parameters>) as unknown as [number, number];
    const conditions = toFloat32(prompts as NonNullable<typeof prompts>);
    return { w, p, conditionOf: (j: number) => conditions[this.sampleOf(j)] as number };
  }

  private sampleOf(j: number): number {
    return Math.floor(j / this.latentElements);
  }

  private rounded(values: Float32Array): Float32Array {
    return this.float16 ? values.map((value) => halfToNumber(numberToHalf(value))) : values;
  }

  /** Programs have static shapes. */
  private requireBatch(samples: number): void {
    if (samples !== this.batch) throw new TypeError(`the fake engine got ${samples} samples, not ${this.batch}`);
  }
}

/**
 * What the chain gives for each sample, by forward-mode differentiation of the formulas above: x_0, its loss, and the gradient of
 * the mean loss over `globalBatchSize`. At a step that the mask leaves out, the U-Net's output is a constant.
 *
 *     ẋ_{t-1} = a · ẋ_t + [kept] · b · (w · ẋ_t + ∂output)      ∂output/∂w = x_t, ∂output/∂p = c + t
 */
export function expectedChain(
  samples: readonly TrainingSample[],
  [w, p]: readonly [number, number],
  { steps = FAKE_STEPS, globalBatchSize = samples.length } = {},
) {
  const gradient = [0, 0];
  const final: number[] = [];
  const losses = samples.map((sample) => {
    const c = Number(sample.prompt);
    const noise = sample.noise();
    let loss = 0;
    for (const [j, initial] of noise.initial.entries()) {
      let [x, dw, dp] = [initial, 0, 0];
      for (const [t, { a, b, sigma }] of steps.entries()) {
        const kept = sample.mask[t] ? b : 0;
        [dw, dp] = [a * dw + kept * (w * dw + x), a * dp + kept * (w * dp + c + t)];
        x = a * x + b * (w * x + p * (c + t)) + sigma * (noise.step(t)[j] as number);
      }
      loss += (x - c) ** 2 / 2;
      gradient[0] = (gradient[0] as number) + ((x - c) * dw) / globalBatchSize;
      gradient[1] = (gradient[1] as number) + ((x - c) * dp) / globalBatchSize;
      final.push(x);
    }
    return loss;
  });
  return { final, losses, gradient: Float64Array.from(gradient) };
}

/**
 * A rollout estimator with L = mean over samples of weight · Σ output, summed over all steps. The weight of a sample is its reward
 * plus the sum of the rewards of the previous training step. With X the sum of a sample's x_t over elements and steps:
 *
 *     dL/dw = mean of weight · X      dL/dp = mean of weight · elements · Σ (c + t)
 */
export function fakeRollout(minibatches: RolloutEstimator["minibatches"]): RolloutEstimator {
  return {
    kind: "rollout",
    name: "fake-rollout",
    usesRewardGradient: false,
    minibatches,
    weigh(samples, state = 0) {
      const rewards = samples.map(({ reward }) => reward);
      return {
        weights: rewards.map((reward) => reward + (state as number)),
        state: rewards.reduce((sum, reward) => sum + reward, 0),
      };
    },
    async addGradient(context, { trajectory, weights }) {
      const { samples, steps, latentElements, globalBatchSize } = context;
      const losses = samples.map(() => 0);
      for (const step of steps.keys()) {
        const x = trajectory.latents[step] as Float32Array;
        const call = await context.callUnet({ step, x });
        const weight = (j: number) => weights[Math.floor(j / latentElements)] as number;
        for (const [j, value] of call.output.entries()) {
          const i = Math.floor(j / latentElements);
          losses[i] = (losses[i] as number) + weight(j) * value;
        }
        await call.backward(x.map((_, j) => weight(j) / globalBatchSize));
      }
      return losses;
    },
  };
}
