/** All estimators by name, and the schema of `estimator` in a recipe. */
import { z } from "zod";
import { isRecord } from "../io/record.js";
import { MODULE_FILE } from "../io/user-module.js";
import { adjointMatching } from "./adjoint-matching.js";
import { alignprop } from "./alignprop.js";
import { code } from "./code.js";
import { ddpo } from "./ddpo.js";
import { draft } from "./draft.js";
import { draftLv } from "./draft-lv.js";
import type { Estimator, EstimatorKind, KeyProblem, OtherSettings } from "./estimator.js";
import { module } from "./module.js";
import { refl } from "./refl.js";
import { rwr } from "./rwr.js";

export {
  type DirectEstimator,
  type Estimator,
  type EstimatorContext,
  needsBaseModel,
  type RolloutEstimator,
  type SampleOptions,
  type ScoredPrompt,
  type TrajectoryBatch,
  type UnetCall,
  type UnetCallOptions,
} from "./estimator.js";
export type { EstimatorModule, EstimatorToolkit } from "./module.js";
export type { TrainingSample } from "./sample.js";
export type { TruncationSettings } from "./truncation.js";

const ESTIMATORS = {
  alignprop,
  draft,
  "draft-lv": draftLv,
  refl,
  "adjoint-matching": adjointMatching,
  ddpo,
  rwr,
  module,
  code,
} as const;

/** Used when a recipe names none. */
const DEFAULT = "alignprop";

/** A name, a module's file, or a mapping. A mapping without a name holds AlignProp's settings. */
export const estimatorSettings = z.preprocess(
  withName,
  z.discriminatedUnion("name", [
    alignprop.schema,
    draft.schema,
    draftLv.schema,
    refl.schema,
    adjointMatching.schema,
    ddpo.schema,
    rwr.schema,
    module.schema,
    code.schema,
  ]),
);

export type EstimatorSettings = z.output<typeof estimatorSettings>;

export function withName(value: unknown): unknown {
  if (typeof value === "string") return MODULE_FILE.test(value) ? { name: "module", file: value } : { name: value };
  return isRecord(value) && !("name" in value) ? { name: DEFAULT, ...value } : value;
}

export async function openEstimator(settings: EstimatorSettings): Promise<Estimator> {
  return await kindOf(settings).create(settings);
}

export function estimatorProblems(settings: EstimatorSettings, others: OtherSettings): readonly KeyProblem[] {
  return kindOf(settings).problems?.(settings, others) ?? [];
}

function kindOf({ name }: EstimatorSettings): EstimatorKind {
  // The schema of the same name has checked these settings.
  return ESTIMATORS[name] as unknown as EstimatorKind;
}
