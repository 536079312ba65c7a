/** What is watched in an evaluation beside the reward that is learnt from: a held-out reward, and the pictures' diversity. */

import type { Settings } from "../config/settings.js";
import { InputError } from "../errors/index.js";
import type { Graph } from "../graph/graph.js";
import { findPlace, type OpenListener } from "../pipeline/open-model.js";
import type { Reward } from "../rewards/index.js";
import { type OpenedClip, openClip } from "../rewards/towers/clip-model.js";
import { embeddingGraph, type ImageShape } from "./diversity.js";
import type { EvaluationResult } from "./evaluation.js";
import { imageJudge } from "./graphs.js";
import { openSettingsReward } from "./open-reward.js";

export interface Watch {
  readonly heldOut?: Reward | undefined;
  /** In whose eyes pictures differ. */
  readonly clip?: OpenedClip | undefined;
}

export async function openWatch(
  { evaluation, loading }: Pick<Settings, "evaluation"> & { readonly loading?: Settings["loading"] },
  listener: OpenListener = {},
): Promise<Watch> {
  const { held_out: reward, diversity } = evaluation;
  const setting = "evaluation.diversity";
  return {
    heldOut: reward ? await openSettingsReward({ reward, loading }, listener, "evaluation.held_out") : undefined,
    clip:
      diversity === null
        ? undefined
        : await openClip(diversity, {
            root: "diversity",
            find: (place, choose) => findPlace(place, setting, choose, loading, listener),
          }),
  };
}

/** For a plan, which fetches nothing: what is here of it, or nothing, and why. */
export async function plannedWatch(
  settings: Pick<Settings, "evaluation" | "loading">,
): Promise<{ readonly watch: Watch; readonly absent?: string }> {
  try {
    return { watch: await openWatch({ ...settings, loading: { ...settings.loading, offline: true } }) };
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    return { watch: {}, absent: error.message };
  }
}

/** The programs that watch pictures of this shape. */
export function watchGraphs({ heldOut, clip }: Watch, shape: ImageShape): Graph[] {
  return [
    ...(heldOut ? imageJudge(heldOut, shape as [number, number, number, number]).map(({ graph }) => graph) : []),
    ...(clip ? [embeddingGraph(clip, shape)] : []),
  ];
}

/** By the keys of `metrics.jsonl`. */
export function watchedMetrics({ heldOut, diversity }: Pick<EvaluationResult, "heldOut" | "diversity">) {
  return {
    ...(heldOut && { eval_held_out_mean: heldOut.mean, eval_held_out_std: heldOut.std }),
    ...(diversity && { eval_diversity: diversity.mean }),
  };
}
