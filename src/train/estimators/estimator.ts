import type { DdimStep } from "../../diffusion/ddim.js";
import type { Denoiser, KeepMask, Trajectory } from "../../diffusion/trajectory.js";
import type { Rng } from "../../tensor/rng.js";

/**
 * How a reward's gradient at the picture becomes a gradient of the adapter. Every published estimator is a choice of
 * steps and of what goes upstream into the U-Net's vector-Jacobian product there; each is one file of this folder.
 */
export interface Estimator {
  readonly name: string;
  /** For one sample, the steps that keep their gradient. Draws only from `rng`, which belongs to that sample. */
  mask(steps: number, rng: Rng): boolean[];
  /** Whether the U-Net's vector-Jacobian product ever has to return dL/dx_t besides the adapter's gradient. */
  needsDx(steps: number): boolean;
  /** Adds the gradient of all samples to `gradient`; `dFinal` is dL/dx_0 and `keep` the samples' masks. */
  accumulate(chain: Chain, dFinal: Float32Array, keep: KeepMask, gradient: Float64Array): Promise<void>;
}

export interface Chain {
  readonly steps: readonly DdimStep[];
  readonly vjp: Denoiser["vjp"];
  readonly trajectory: Trajectory;
}
