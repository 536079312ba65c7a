/**
 * The ranks of a run at work: each takes as many of a step's pictures, one rank's after another's, and all know afterwards
 * what all of them came to. The sums are the same bits everywhere, so every rank makes the same update of what it learns.
 */

import type { Cluster } from "../cluster/cluster.js";
import { shareOf } from "../cluster/share.js";
import { InputError } from "../errors/index.js";
import type { Lesson, RoundEstimator, UpdateEstimator } from "../estimators/estimator.js";
import type { TrainingSample } from "../estimators/sample.js";
import type { Update } from "./context.js";
import type { Learnt, Rollout, Sampled, Seen } from "./replica.js";
import { pick } from "./samples.js";
import { costOf, joined, summed, type Told } from "./sharding.js";
import type { Workers } from "./step.js";

export class Ranks implements Workers {
  constructor(
    private readonly cluster: Cluster,
    /** Those of this rank. */
    private readonly own: Workers,
  ) {}

  async learn(estimator: UpdateEstimator, samples: readonly TrainingSample[], update: Update): Promise<Learnt & Seen> {
    const learnt = await this.own.learn(estimator, shareOf(samples, this.cluster), update);
    const { gradient, ...told } = learnt;
    const all = await this.tell(told, update);
    return { ...(await this.added(gradient, all)), ...joined(all) };
  }

  async sample(samples: readonly TrainingSample[], update: Update): Promise<Sampled> {
    const share = shareOf(samples, this.cluster);
    const { rollouts, ...told } = await this.own.sample(share, update);
    const all = await this.tell(told, update);
    const first = samples.indexOf(share[0] as TrainingSample);
    return {
      rollouts: samples.map((sample, i) => rollouts[i - first] ?? { sample, latents: ELSEWHERE }),
      cost: costOf(all),
      ...joined(all),
    };
  }

  async relearn(
    estimator: RoundEstimator,
    rollouts: readonly Rollout[],
    { weights, update: number }: Omit<Lesson, "trajectory">,
    update: Update,
  ): Promise<Learnt> {
    const places = [...rollouts.keys()].filter((place) => rollouts[place]?.latents !== ELSEWHERE);
    const { gradient, ...told } = await this.own.relearn(
      estimator,
      pick(rollouts, places),
      { weights: pick(weights, places), update: number },
      update,
    );
    return this.added(gradient, await this.tell(told, update));
  }

  /** Every rank's, in the order of ranks; and whether all still learn the same thing. */
  private async tell<T>(told: T, { parameters }: Update): Promise<T[]> {
    const { cluster } = this;
    const all = await cluster.allGather({ told, parameters: checksum(parameters) });
    const other = all.findIndex((each) => each.parameters !== all[0]?.parameters);
    if (other > 0) {
      throw new InputError(
        "not-finite",
        `rank ${other} (${cluster.hosts[other]}) does not learn the same numbers as rank 0 (${cluster.hosts[0]}) any more: are the hosts' processors and libraries alike?`,
      );
    }
    return all.map((each) => each.told);
  }

  private async added(gradient: Float64Array, all: readonly Told[]): Promise<Learnt> {
    const told = summed(all);
    if (!told.overflowed) await this.cluster.sum(gradient);
    return { gradient, ...told };
  }
}

/** The latents of a picture that another rank has. */
const ELSEWHERE: readonly Float32Array[] = [];

/** Numbers that a checksum looks at: all of an adapter's, some of a whole U-Net's. */
const CHECKED = 2 ** 20;

/** FNV-1a over the bits. */
export function checksum(values: Float32Array): number {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const stride = Math.ceil(values.length / CHECKED);
  let hash = 0x811c9dc5;
  for (let i = 0; i < bits.length; i += stride) hash = Math.imul(hash ^ (bits[i] as number), 0x01000193);
  return hash >>> 0;
}
