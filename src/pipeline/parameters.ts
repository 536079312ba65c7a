/**
 * What a run learns, as one vector: the factors of an adapter, or every weight of the U-Net. Graphs slice their parameters
 * from it, the optimizer steps along it, a checkpoint saves it; none of them asks which of the two it is.
 */
import type { Value } from "../graph/value.js";
import { type LoraLayout, loraAdapter } from "../nn/lora.js";
import { frozenScope, type ParameterLayout, type Scope, trainableScope } from "../nn/scope.js";
import type { WeightSource } from "../weights/source.js";

export interface UnetLayout extends ParameterLayout {
  readonly kind: "unet";
}

export type LearnedLayout = LoraLayout | UnetLayout;

/** The U-Net's scope with the vector [size] in it; `parts` are the vector's slices, to differentiate by. */
export function learnedScope(
  layout: LearnedLayout,
  parameters: Value,
  weights: WeightSource,
): { scope: Scope; parts: Value[] } {
  switch (layout.kind) {
    case "lora": {
      const { adapter, parts } = loraAdapter(layout, parameters);
      return { scope: frozenScope(weights, "unet", { adapter }), parts };
    }
    case "unet":
      return trainableScope(layout, parameters, "unet");
  }
}
