/**
 * One step of a run: its pictures are sampled and rewarded, and one or several optimizer updates are made from them. What
 * needs all pictures at once, such as an estimator's weights, is decided here, above whatever shares the work.
 */

import type { Estimator, Lesson, RoundEstimator, UpdateEstimator } from "../estimators/estimator.js";
import type { TrainingSample } from "../estimators/sample.js";
import type { Cost, Update } from "./context.js";
import type { Learnt, Rollout, Sampled, Seen } from "./replica.js";
import { pick } from "./samples.js";

/** Those who share the work: a learner, several lanes of them, or a dry run. */
export interface Workers {
  learn(estimator: UpdateEstimator, samples: readonly TrainingSample[], update: Update): Promise<Learnt & Seen>;
  sample(samples: readonly TrainingSample[], update: Update): Promise<Sampled>;
  relearn(
    estimator: RoundEstimator,
    rollouts: readonly Rollout[],
    lesson: Omit<Lesson, "trajectory">,
    update: Update,
  ): Promise<Learnt>;
}

export interface Round extends Seen {
  /** The mean over the updates. */
  readonly loss: number;
  readonly kl?: number | undefined;
  readonly cost: Cost;
  /** What the estimator remembers for the next round. */
  readonly memory: unknown;
}

/**
 * `next` gives each update the parameters as they are by then; `apply` makes them what they are after it.
 */
export async function playRound(
  workers: Workers,
  estimator: Estimator,
  samples: readonly TrainingSample[],
  memory: unknown,
  next: () => Omit<Update, "total">,
  apply: (learnt: Learnt) => Promise<void> | void,
): Promise<Round> {
  if (estimator.kind === "update") {
    const learnt = await workers.learn(estimator, samples, { ...next(), total: samples.length });
    await apply(learnt);
    const { rewards, parts, loss, kl, cost } = learnt;
    return { rewards, parts, loss, kl, cost, memory: undefined };
  }
  const { rollouts, rewards, parts, cost } = await workers.sample(samples, { ...next(), total: samples.length });
  const weighed = estimator.weigh(
    samples.map(({ prompt }, i) => ({ prompt, reward: rewards[i] as number })),
    memory,
  );
  const minibatches = estimator.minibatches(samples.length);
  const sums = { loss: 0, kl: 0, ...cost };
  let regularised = false;
  for (const [update, places] of minibatches.entries()) {
    const learnt = await workers.relearn(
      estimator,
      pick(rollouts, places),
      { weights: pick(weighed.weights, places), update },
      { ...next(), total: places.length },
    );
    await apply(learnt);
    sums.loss += learnt.loss / minibatches.length;
    sums.kl += (learnt.kl ?? 0) / minibatches.length;
    sums.unetCalls += learnt.cost.unetCalls;
    sums.rewardQueries += learnt.cost.rewardQueries;
    regularised = learnt.kl !== undefined;
  }
  return {
    rewards,
    parts,
    loss: sums.loss,
    ...(regularised && { kl: sums.kl }),
    cost: { unetCalls: sums.unetCalls, rewardQueries: sums.rewardQueries },
    memory: weighed.memory,
  };
}
