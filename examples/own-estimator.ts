/**
 * Trains with an estimator of your own: `own-estimator [recipe] [folder]`. This one is an evolution strategy (Salimans et al.
 * 2017, arXiv 1703.03864), which needs no gradient of the reward or of the U-Net:
 *
 *     g = (L(θ + σδ) − L(θ − σδ)) / 2σ · δ,   δ ~ N(0, 1)
 */
import { type DirectEstimator, loadSettings, trainRun } from "alignprop";

const [recipe = "default", out] = process.argv.slice(2);
const sigma = 0.01;

const evolution: DirectEstimator = {
  kind: "direct",
  name: "evolution",
  usesRewardGradient: false,
  // No U-Net call is differentiated.
  mask: (steps) => new Array<boolean>(steps).fill(false),
  needsDx: () => false,
  async addGradient(context) {
    const { samples, parameters, gradient, globalBatchSize } = context;
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

const settings = await loadSettings({ recipe });
const run = await trainRun(settings, { estimator: evolution, out });
console.log(`reward per step: ${run.metrics.map(({ reward_mean }) => reward_mean.toFixed(3)).join(", ")}`);
console.log(`report: ${run.report}`);
