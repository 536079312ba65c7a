/**
 * The denoising chain and the way back through it.
 *
 * Forward keeps x_t of each step and nothing else. Backward recomputes the U-Net where a step keeps its gradient and
 * crosses the other steps through DDIM's linear term alone: a dropped step treats the U-Net's output as a constant, not
 * the latent. This is the gradient checkpointing of AlignProp (Prabhudesai et al. 2023, arXiv 2310.03739, section 4), with
 * the truncation as a mask over steps.
 */
import type { DdimStep } from "./ddim.js";

/** What the chain needs of a U-Net; `x` holds the batch's latents, row after row, and `step` counts from 0 at the noise. */
export interface Denoiser {
  predict(x: Float32Array, step: number): Promise<Float32Array>;
  /**
   * The vector-Jacobian product of `predict` at `x`: upstream = dL/d output → dL/dx (only where asked for) and
   * dL/d parameters summed over the batch.
   */
  vjp(x: Float32Array, step: number, upstream: Float32Array, wantsDx: boolean): Promise<Vjp>;
}

export interface Vjp {
  readonly dx: Float32Array | null;
  readonly dParameters: Float32Array;
}

export interface Trajectory {
  /** x_t as each step found it: `latents[0]` is the initial noise. */
  readonly latents: readonly Float32Array[];
  /** What the last step left: x_0. */
  readonly final: Float32Array;
}

/** Noise z of a step, like the latents; asked only where the step's sigma is positive. */
export type StepNoise = (step: number) => Float32Array;

export async function forward(
  steps: readonly DdimStep[],
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

/** For each sample of the batch, for each step: does the U-Net's output keep its gradient there? */
export type KeepMask = readonly (readonly boolean[])[];

/**
 * Walks dL/dx_0 back through the chain and adds dL/d parameters to `gradient`.
 *
 *     dL/dx_t = a · dL/dx_{t-1} + [kept] · VJP(b · dL/dx_{t-1})
 *
 * Stops at the earliest step that any sample keeps: nothing before it has a gradient to receive.
 */
export async function pullback(
  steps: readonly DdimStep[],
  denoiser: Pick<Denoiser, "vjp">,
  trajectory: Trajectory,
  dFinal: Float32Array,
  keep: KeepMask,
  gradient: Float64Array,
): Promise<void> {
  const kept = steps.map((_, i) => keep.some((sample) => sample[i]));
  const earliest = kept.indexOf(true);
  if (earliest < 0) return;

  const rowSize = dFinal.length / keep.length;
  let dx = dFinal;
  for (let i = steps.length - 1; i >= earliest; i--) {
    const { a, b } = steps[i] as DdimStep;
    const before = dx.map((value) => a * value);
    if (kept[i]) {
      const upstream = new Float32Array(dx.length);
      for (const [sample, mask] of keep.entries()) {
        if (!mask[i]) continue; // a row of zeros asks the VJP for nothing
        for (let j = sample * rowSize; j < (sample + 1) * rowSize; j++) upstream[j] = b * (dx[j] as number);
      }
      const vjp = await denoiser.vjp(trajectory.latents[i] as Float32Array, i, upstream, i > earliest);
      for (const [j, value] of vjp.dParameters.entries()) gradient[j] = (gradient[j] as number) + value;
      if (vjp.dx) for (const [j, value] of vjp.dx.entries()) before[j] = (before[j] as number) + value;
    }
    dx = before;
  }
}
