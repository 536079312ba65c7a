/**
 * DRaFT-K (Clark et al. 2023, "Directly Fine-Tuning Diffusion Models on Differentiable Rewards", arXiv 2309.17400) as an
 * estimator of your own: the gradient of the loss through the last K denoising steps.
 *
 *     x_{t-1} = a · x_t + b · output_θ(x_t),   dL/dx_t = a · dL/dx_{t-1} + Jᵀ(b · dL/dx_{t-1})      J = ∂output/∂x_t
 *
 *     alignprop train --set estimator=docs/examples/last-steps.js
 *
 * `estimator: { name: module, file: docs/examples/last-steps.js, options: { k: 3 } }` sets K.
 *
 * @param {import("alignprop").EstimatorToolkit} _toolkit
 * @param {{ k?: number }} options
 * @returns {import("alignprop").DirectEstimator}
 */
export default function lastSteps(_toolkit, { k = 2 }) {
  const firstOf = (steps) => Math.max(0, steps - k);
  return {
    kind: "direct",
    name: "last-steps",
    usesRewardGradient: true,
    mask: (steps) => Array.from({ length: steps }, (_, step) => step >= firstOf(steps)),
    // dL/dx_t is needed only at steps that have an earlier differentiated step.
    needsDx: (steps) => firstOf(steps) < steps - 1,

    async addGradient(context) {
      const { steps } = context;
      const samples = [...context.samples.keys()];
      const { latents, final, outputs } = await context.sample();
      let { dLatents } = await context.scoreWithGradient(final);
      for (let step = steps.length - 1; step >= firstOf(steps.length); step--) {
        const { a, b } = steps[step];
        const wantsDx = step > firstOf(steps.length);
        const upstream = dLatents.map((value) => b * value);
        const call = { step, samples, x: latents[step], output: outputs?.[step], upstream, wantsDx };
        const { dx } = await context.vjp(call);
        if (dx) dLatents = dx.map((value, j) => a * dLatents[j] + value);
      }
    },
  };
}
