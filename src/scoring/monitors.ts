/** The monitors of an evaluation: a held-out reward, which is not trained on, and the diversity of the images. */

import type { LoadingSettings, SettingsPart } from "../config/index.js";
import { InputError } from "../errors/index.js";
import type { Graph } from "../graph/graph.js";
import { findLocation, type OpenListener } from "../pipeline/index.js";
import { type OpenedClip, openClip, type Reward } from "../rewards/index.js";
import { embeddingGraph } from "./diversity.js";
import type { EvaluationResult } from "./evaluation.js";
import { type ImageShape, imageScorerGraphs } from "./graphs.js";
import { openSettingsReward } from "./open-reward.js";

export interface Monitors {
  readonly heldOut?: Reward | undefined;
  /** Measures diversity by its image embeddings. */
  readonly clip?: OpenedClip | undefined;
}

type MonitorSettings = SettingsPart<"evaluation"> & { readonly loading?: LoadingSettings };

export async function openMonitors(
  { evaluation, loading }: MonitorSettings,
  listener: OpenListener = {},
): Promise<Monitors> {
  const { held_out: reward, diversity } = evaluation;
  const setting = "evaluation.diversity";
  return {
    heldOut: reward ? await openSettingsReward({ reward, loading }, listener, "evaluation.held_out") : undefined,
    clip:
      diversity === null
        ? undefined
        : await openClip(diversity, {
            root: "diversity",
            find: (location, choose) => findLocation(location, choose, { setting, loading, listener }),
          }),
  };
}

/** The monitors of a plan, which downloads nothing. `absent` says why they cannot be opened. */
export async function plannedMonitors(
  settings: SettingsPart<"evaluation" | "loading">,
): Promise<{ readonly monitors: Monitors; readonly absent?: string }> {
  try {
    return { monitors: await openMonitors({ ...settings, loading: { ...settings.loading, offline: true } }) };
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    return { monitors: {}, absent: error.message };
  }
}

/** The programs that measure images [b, 3, h, w]. */
export function monitorGraphs({ heldOut, clip }: Monitors, shape: ImageShape): Graph[] {
  return [
    ...(heldOut ? imageScorerGraphs(heldOut, shape).map(({ graph }) => graph) : []),
    ...(clip ? [embeddingGraph(clip, shape)] : []),
  ];
}

/** The columns of `metrics.jsonl`. */
export function monitorMetrics({ heldOut, diversity }: Pick<EvaluationResult, "heldOut" | "diversity">) {
  return {
    ...(heldOut && { eval_held_out_mean: heldOut.mean, eval_held_out_std: heldOut.std }),
    ...(diversity && { eval_diversity: diversity.mean }),
  };
}
