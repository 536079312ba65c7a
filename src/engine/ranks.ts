/**
 * All ranks of a run as one worker. Each rank takes a share of the samples, consecutive ones, and afterwards all ranks know the
 * results of all. Sums are the same bits on every rank, so every rank makes the same optimizer update.
 */
import { type Cluster, shareOf } from "../cluster/index.js";
import { InputError } from "../errors/index.js";
import type { DirectEstimator, RolloutEstimator, TrainingSample } from "../estimators/index.js";
import type { GradientRequest, GradientResult, ScoredSamples } from "./gradient.js";
import {
  addSummaries,
  type GradientSummary,
  joinRollouts,
  joinSamples,
  partOf,
  type SampledBatch,
  type StoredBatch,
  type Workers,
} from "./workers.js";

export class Ranks implements Workers {
  constructor(
    private readonly cluster: Cluster,
    /** The replicas of this rank. */
    private readonly own: Workers,
  ) {}

  async gradient(
    estimator: DirectEstimator,
    samples: readonly TrainingSample[],
    request: GradientRequest,
  ): Promise<GradientResult & ScoredSamples> {
    const { gradient, ...found } = await this.own.gradient(estimator, shareOf(samples, this.cluster), request);
    const all = await this.gather(found, request);
    return { ...(await this.added(gradient, all)), ...joinSamples(all) };
  }

  async sample(samples: readonly TrainingSample[], request: GradientRequest): Promise<SampledBatch> {
    const share = shareOf(samples, this.cluster);
    const { trajectories, ...found } = await this.own.sample(share, request);
    const all = await this.gather(found, request);
    const first = samples.indexOf(share[0] as TrainingSample);
    return {
      trajectories: samples.map((sample, i) => trajectories[i - first] ?? { sample, latents: ELSEWHERE }),
      ...joinRollouts(all),
    };
  }

  async gradientFromTrajectories(
    estimator: RolloutEstimator,
    batch: StoredBatch,
    request: GradientRequest,
  ): Promise<GradientResult> {
    const { trajectories } = batch;
    const places = [...trajectories.keys()].filter((place) => trajectories[place]?.latents !== ELSEWHERE);
    const { gradient, ...found } = await this.own.gradientFromTrajectories(estimator, partOf(batch, places), request);
    return this.added(gradient, await this.gather(found, request));
  }

  /** The results of every rank, in order of rank. Fails if the ranks no longer have the same parameters. */
  private async gather<T>(found: T, { parameters }: GradientRequest): Promise<T[]> {
    const { cluster } = this;
    const all = await cluster.allGather({ found, parameters: checksum(parameters) });
    const other = all.findIndex((each) => each.parameters !== all[0]?.parameters);
    if (other > 0) {
      throw new InputError(
        "ranks-mismatch",
        `rank ${other} (${cluster.hosts[other]}) no longer has the same parameters as rank 0 (${cluster.hosts[0]}). Do the hosts have the same processors and libraries?`,
        { rank: other, host: cluster.hosts[other] },
      );
    }
    return all.map((each) => each.found);
  }

  private async added(gradient: Float64Array, all: readonly GradientSummary[]): Promise<GradientResult> {
    const summary = addSummaries(all);
    if (!summary.overflowed) await this.cluster.sum(gradient);
    return { gradient, ...summary };
  }
}

/** The latents of a sample that another rank has. */
const ELSEWHERE: readonly Float32Array[] = [];

/** Numbers that a checksum reads: all of an adapter, some of a whole U-Net. */
const CHECKSUM_SAMPLES = 2 ** 20;

/** FNV-1a over the bits of the values. */
export function checksum(values: Float32Array): number {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const stride = Math.ceil(values.length / CHECKSUM_SAMPLES);
  let hash = 0x811c9dc5;
  for (let i = 0; i < bits.length; i += stride) hash = Math.imul(hash ^ (bits[i] as number), 0x01000193);
  return hash >>> 0;
}
