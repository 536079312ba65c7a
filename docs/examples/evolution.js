/**
 * An evolution strategy with antithetic pairs (Salimans et al. 2017, "Evolution Strategies as a Scalable Alternative to
 * Reinforcement Learning", arXiv 1703.03864) as an estimator of your own. It needs no gradient of the reward or the U-Net:
 *
 *     g = (L(θ + σδ) − L(θ − σδ)) / 2σ · δ,   δ ~ N(0, 1)
 *
 * Every micro-batch has its own δ, and both signs generate images from the same noise. It works with any reward:
 *
 *     alignprop train ddpo --set estimator=docs/examples/evolution.js --set reward=compressibility
 *
 * `estimator: { name: module, file: docs/examples/evolution.js, options: { sigma: 0.02 } }` sets σ.
 *
 * @param {import("alignprop").EstimatorToolkit} _toolkit
 * @param {{ sigma?: number }} options
 * @returns {import("alignprop").DirectEstimator}
 */
export default function evolution(_toolkit, { sigma = 0.01 }) {
  return {
    kind: "direct",
    name: "evolution",
    usesRewardGradient: false,
    // No U-Net call is differentiated.
    mask: (steps) => new Array(steps).fill(false),
    needsDx: () => false,

    async addGradient(context) {
      const { parameters, samples, gradient, globalBatchSize } = context;
      const delta = samples[0].rng(0).normals(parameters.length);
      let difference = 0;
      for (const sign of [1, -1]) {
        const moved = parameters.map((value, j) => value + sign * sigma * delta[j]);
        const { final } = await context.sample({ parameters: moved });
        const { losses } = await context.score(final);
        for (const loss of losses) difference += (sign * loss) / globalBatchSize;
      }
      for (let j = 0; j < gradient.length; j++) gradient[j] += (difference / (2 * sigma)) * delta[j];
    },
  };
}
