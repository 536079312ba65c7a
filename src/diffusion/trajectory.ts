/**
 * The forward and backward pass through the denoising chain.
 *
 * The forward pass stores x_t of each step. The backward pass computes the U-Net's vector-Jacobian product at the steps
 * that keep their gradient. At the other steps it uses only DDIM's linear term: there the U-Net's output counts as a
 * constant, but the latent does not. This is the gradient checkpointing of AlignProp (Prabhudesai et al. 2023, arXiv
 * 2310.03739), with the truncation given as a mask over steps.
 */
import type { ChainStep } from "./ddim.js";

/** The U-Net as the chain uses it. Latents are flat arrays [images, elements]. `step` counts from 0 at the noise. */
export interface Denoiser {
  predict(x: Float32Array, step: number): Promise<Float32Array>;
  vjp(call: VjpCall): Promise<Vjp>;
}

/** A vector-Jacobian product of `predict` for some images of the batch. */
export interface VjpCall {
  readonly step: number;
  /** Indices of the images in the batch. `x`, `upstream` and `output` hold only these. */
  readonly samples: readonly number[];
  readonly x: Float32Array;
  /** dL/d output. */
  readonly upstream: Float32Array;
  /** The result of `predict` for `x`, if it is known. */
  readonly output?: Float32Array | undefined;
  readonly wantsDx: boolean;
}

/** The result of a vector-Jacobian product. The gradient of the parameters is not part of it: `vjp` accumulates it. */
export interface Vjp {
  /** Same layout as `x`; null if `wantsDx` was false. */
  readonly dx: Float32Array | null;
}

export interface Trajectory {
  /** The input x_t of each step; `latents[0]` is the initial noise. */
  readonly latents: readonly Float32Array[];
  /** The output x_0 of the last step. */
  readonly final: Float32Array;
  /** The U-Net's output at each step, if it was stored. */
  readonly outputs?: readonly (Float32Array | undefined)[];
}

/** The noise z of a step, same layout as the latents. Called only for steps with a positive sigma. */
export type StepNoise = (step: number) => Float32Array;

/** Runs the chain from `initial` to x_0. */
export async function forward(
  steps: readonly ChainStep[],
  denoiser: Pick<Denoiser, "predict">,
  initial: Float32Array,
  stepNoise: StepNoise,
): Promise<Trajectory> {
  const latents: Float32Array[] = [];
  let x = initial;
  for (const [i, { a, b, sigma }] of steps.entries()) {
    latents.push(x);
    const output = await denoiser.predict(x, i);
    const next = new Float32Array(x.length);
    for (let j = 0; j < next.length; j++) next[j] = a * (x[j] as number) + b * (output[j] as number);
    if (sigma > 0) {
      const z = stepNoise(i);
      for (let j = 0; j < next.length; j++) next[j] = (next[j] as number) + sigma * (z[j] as number);
    }
    x = next;
  }
  return { latents, final: x };
}

/** For each image and each step: true if the U-Net keeps its gradient there. */
export type KeepMask = readonly (readonly boolean[])[];

/**
 * Propagates dL/dx_0 of a batch of images back through the chain.
 *
 *     dL/dx_t = a · dL/dx_{t-1} + [kept] · VJP(b · dL/dx_{t-1})
 *
 * Each step computes one VJP for all images that keep it. The pass ends at the earliest step that any image keeps,
 * because no parameter has a gradient before it. The gradient of the parameters is not returned: `denoiser.vjp` adds it up.
 *
 * @param trajectory the latents of each step [images · elements], from the forward pass
 * @param options `dFinal`: dL/dx_0 [images · elements]; `keep`: a mask over the steps for each image
 * @example
 * // AlignProp's estimator, with an `EstimatorContext`
 * const trajectory = await context.sample();
 * const { dLatents } = await context.scoreWithGradient(trajectory.final);
 * const keep = context.samples.map(({ mask }) => mask);
 * await pullback(context.steps, context, trajectory, { dFinal: dLatents, keep });
 */
export async function pullback(
  steps: readonly ChainStep[],
  denoiser: Pick<Denoiser, "vjp">,
  trajectory: Trajectory,
  { dFinal, keep }: { readonly dFinal: Float32Array; readonly keep: KeepMask },
): Promise<void> {
  const size = dFinal.length / keep.length;
  const everyImage = keep.map((_, image) => image);
  const keptAt = steps.map((_, i) => everyImage.filter((image) => keep[image]?.[i]));
  const earliest = keptAt.findIndex((images) => images.length > 0);
  if (earliest < 0) return;

  const dx = dFinal.slice();
  for (let i = steps.length - 1; i >= earliest; i--) {
    const { a, b } = steps[i] as ChainStep;
    const samples = keptAt[i] as number[];
    const upstream = take(dx, samples, size).map((value) => b * value);
    for (let j = 0; j < dx.length; j++) dx[j] = a * (dx[j] as number);
    if (samples.length === 0) continue;

    const x = take(trajectory.latents[i] as Float32Array, samples, size);
    const outputs = trajectory.outputs?.[i];
    const output = outputs && take(outputs, samples, size);
    const wantsDx = samples.some((image) => keep[image]?.slice(0, i).includes(true));
    const vjp = await denoiser.vjp({ step: i, samples, x, upstream, output, wantsDx });
    for (const [n, image] of samples.entries()) {
      for (let j = 0; vjp.dx && j < size; j++) {
        const at = image * size + j;
        dx[at] = (dx[at] as number) + (vjp.dx[n * size + j] as number);
      }
    }
  }
}

/**
 * Selects images of a batch by index, in the order given: [batch · size] → [images.length · size].
 *
 * @example
 * take(Float32Array.of(1, 2, 3, 4, 5, 6), [2, 0], 2); // 5, 6, 1, 2
 */
export function take(values: Float32Array, images: readonly number[], size: number): Float32Array {
  const out = new Float32Array(images.length * size);
  for (const [n, image] of images.entries()) out.set(values.subarray(image * size, (image + 1) * size), n * size);
  return out;
}

/**
 * Concatenates rows of equal length into a batch: n times [size] → [n · size].
 *
 * @example
 * stack([Float32Array.of(1, 2), Float32Array.of(3, 4)]); // 1, 2, 3, 4
 */
export function stack(rows: readonly Float32Array[]): Float32Array {
  const each = rows[0]?.length ?? 0;
  const all = new Float32Array(rows.length * each);
  for (const [i, row] of rows.entries()) all.set(row, i * each);
  return all;
}
