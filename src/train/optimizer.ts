/** AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2) and gradient clipping on one flat vector of weights. */

export interface AdamWOptions {
  readonly learningRate: number;
  readonly beta1?: number;
  readonly beta2?: number;
  readonly epsilon?: number;
  readonly weightDecay?: number;
}

/** State of AdamW between updates. */
export interface AdamWState {
  /** Number of updates done. */
  step: number;
  /** Running mean of the gradient. */
  readonly firstMoment: Float32Array;
  /** Running mean of the squared gradient. */
  readonly secondMoment: Float32Array;
}

/** The state before the first update of `size` weights. */
export function adamwState(size: number): AdamWState {
  return { step: 0, firstMoment: new Float32Array(size), secondMoment: new Float32Array(size) };
}

/**
 * Updates `weights` and `state` in place, in the order of `torch.optim.AdamW`: the decoupled weight decay comes first, and
 * epsilon is added after the bias correction of the second moment.
 */
export function adamw(
  weights: Float32Array,
  gradient: ArrayLike<number>,
  state: AdamWState,
  { learningRate, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weightDecay = 0.01 }: AdamWOptions,
): void {
  state.step += 1;
  const { firstMoment, secondMoment } = state;
  const stepSize = learningRate / (1 - beta1 ** state.step);
  const secondCorrection = Math.sqrt(1 - beta2 ** state.step);
  const keep = 1 - learningRate * weightDecay;
  for (let i = 0; i < weights.length; i++) {
    const g = gradient[i] as number;
    const m = beta1 * (firstMoment[i] as number) + (1 - beta1) * g;
    const v = beta2 * (secondMoment[i] as number) + (1 - beta2) * g * g;
    firstMoment[i] = m;
    secondMoment[i] = v;
    weights[i] = (weights[i] as number) * keep - (stepSize * m) / (Math.sqrt(v) / secondCorrection + epsilon);
  }
}

export function l2Norm(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += (values[i] as number) ** 2;
  return Math.sqrt(sum);
}

/**
 * Scales `gradient` in place so that its L2 norm is at most `maxNorm`, and returns the norm before. Like
 * `torch.nn.utils.clip_grad_norm_`, it divides by the norm plus 1e-6.
 */
export function clipGradNorm(gradient: Float32Array | Float64Array, maxNorm: number): number {
  const norm = l2Norm(gradient);
  const scale = Math.min(1, maxNorm / (norm + 1e-6));
  if (scale < 1) for (let i = 0; i < gradient.length; i++) gradient[i] = (gradient[i] as number) * scale;
  return norm;
}
