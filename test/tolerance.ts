/**
 * Tolerances for results that depend on the processor. ONNX Runtime has kernels for each instruction set, and they sum in
 * different orders, so results differ by the rounding of intermediate values, amplified by the computation.
 */

import { l2Norm } from "../src/train/optimizer.js";

/** Unit roundoff: the largest relative error of rounding to nearest (Higham 2002, section 2.1). */
const UNIT_ROUNDOFF = { float32: 2 ** -24, float16: 2 ** -11 } as const;

/**
 * Four times the error of a computation that amplifies rounding by `amplification`. The amplification is measured: the
 * largest error against float64 (or float16 against float32) over kernels for AVX-512, AVX2 and SSE, the last two under
 * `qemu-x86_64 -cpu Haswell` and `-cpu Westmere`, in units of roundoff.
 */
export function roundingTolerance(dtype: keyof typeof UNIT_ROUNDOFF, amplification: number): number {
  return 4 * amplification * UNIT_ROUNDOFF[dtype];
}

/** |a − b| / |b| over all elements: covers direction and size. */
export function distance(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  return l2Norm(Float64Array.from(expected, (value, i) => (actual[i] as number) - value)) / l2Norm(expected);
}

/** For one op or a small graph of them in float32: 1e-5. The largest error found is 1.4e-6. */
export const OP_TOLERANCE = roundingTolerance("float32", 42);

/** For a model's output and gradients in float32, against PyTorch's in float64: 1e-4. Few models amplify rounding more. */
export const MODEL_TOLERANCE = roundingTolerance("float32", 420);

/** For training steps in float32, through the whole denoising chain: 1e-3. AdamW divides small gradients by their size. */
export const CHAIN_TOLERANCE = roundingTolerance("float32", 4200);
