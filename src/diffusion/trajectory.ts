/**
 * The denoising chain and the way back through it.
 *
 * Forward keeps x_t of each step. Backward asks for the U-Net's vector-Jacobian product where a step keeps its gradient and
 * crosses the other steps through DDIM's linear term alone: a dropped step treats the U-Net's output as a constant, not
 * the latent. This is the gradient checkpointing of AlignProp (Prabhudesai et al. 2023, arXiv 2310.03739), with
 * the truncation as a mask over steps.
 */
import type { ChainStep } from "./ddim.js";

/** What the chain needs of a U-Net. Latents are held picture after picture; `step` counts from 0 at the noise. */
export interface Denoiser {
  predict(x: Float32Array, step: number): Promise<Float32Array>;
  vjp(call: VjpCall): Promise<Vjp>;
}

/** A vector-Jacobian product of `predict` for some of the pictures: upstream is dL/d output. */
export interface VjpCall {
  readonly step: number;
  /** Which pictures: `x` and `upstream` hold these and no others. */
  readonly pictures: readonly number[];
  readonly x: Float32Array;
  readonly upstream: Float32Array;
  /** What `predict` gave for `x`, where it is known. */
  readonly output?: Float32Array | undefined;
  readonly wantsDx: boolean;
}

/** What the product with the parameters comes to is added up where it is computed. */
export interface Vjp {
  /** Like `x`; null where it was not wanted. */
  readonly dx: Float32Array | null;
}

export interface Trajectory {
  /** x_t as each step found it: `latents[0]` is the initial noise. */
  readonly latents: readonly Float32Array[];
  /** What the last step left: x_0. */
  readonly final: Float32Array;
  /** The U-Net's output at each step that has one here. */
  readonly outputs?: readonly (Float32Array | undefined)[];
}

/** Noise z of a step, like the latents; asked only where the step's sigma is positive. */
export type StepNoise = (step: number) => Float32Array;

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

/** For each picture, for each step: does the U-Net's output keep its gradient there? */
export type KeepMask = readonly (readonly boolean[])[];

/**
 * Walks dL/dx_0 of any number of pictures back through the chain.
 *
 *     dL/dx_t = a · dL/dx_{t-1} + [kept] · VJP(b · dL/dx_{t-1})
 *
 * All pictures walk in step, and a step's VJP is asked for those that keep it. Stops at the earliest step that any picture
 * keeps: nothing before it has a gradient to receive.
 */
export async function pullback(
  steps: readonly ChainStep[],
  denoiser: Pick<Denoiser, "vjp">,
  trajectory: Trajectory,
  dFinal: Float32Array,
  keep: KeepMask,
): Promise<void> {
  const size = dFinal.length / keep.length;
  const everyPicture = keep.map((_, picture) => picture);
  const keptAt = steps.map((_, i) => everyPicture.filter((picture) => keep[picture]?.[i]));
  const earliest = keptAt.findIndex((pictures) => pictures.length > 0);
  if (earliest < 0) return;

  const dx = dFinal.slice();
  for (let i = steps.length - 1; i >= earliest; i--) {
    const { a, b } = steps[i] as ChainStep;
    const pictures = keptAt[i] as number[];
    const upstream = take(dx, pictures, size).map((value) => b * value);
    for (let j = 0; j < dx.length; j++) dx[j] = a * (dx[j] as number);
    if (pictures.length === 0) continue;

    const x = take(trajectory.latents[i] as Float32Array, pictures, size);
    const outputs = trajectory.outputs?.[i];
    const output = outputs && take(outputs, pictures, size);
    const wantsDx = pictures.some((picture) => keep[picture]?.slice(0, i).includes(true));
    const vjp = await denoiser.vjp({ step: i, pictures, x, upstream, output, wantsDx });
    for (const [n, picture] of pictures.entries()) {
      for (let j = 0; vjp.dx && j < size; j++) {
        const at = picture * size + j;
        dx[at] = (dx[at] as number) + (vjp.dx[n * size + j] as number);
      }
    }
  }
}

/** Some of the pictures, in the order given. */
export function take(values: Float32Array, pictures: readonly number[], size: number): Float32Array {
  const out = new Float32Array(pictures.length * size);
  for (const [n, picture] of pictures.entries())
    out.set(values.subarray(picture * size, (picture + 1) * size), n * size);
  return out;
}

/** Rows of a batch, one after another. */
export function stack(rows: readonly Float32Array[]): Float32Array {
  const each = rows[0]?.length ?? 0;
  const all = new Float32Array(rows.length * each);
  for (const [i, row] of rows.entries()) all.set(row, i * each);
  return all;
}
