/**
 * The trainable parameters of a run as one vector: the factors of an adapter, or all weights of the U-Net. Graphs slice the
 * vector, the optimizer updates it, a checkpoint saves it, and none of them needs to know which of the two it is.
 */
import type { Value } from "../graph/value.js";
import { type LoraLayout, loraAdapter } from "../nn/lora.js";
import { frozenScope, type ParameterLayout, type Scope, trainableScope } from "../nn/scope.js";
import type { WeightSource } from "../weights/source.js";

export interface UnetLayout extends ParameterLayout {
  readonly kind: "unet";
}

export type TrainableLayout = LoraLayout | UnetLayout;

/** The U-Net's scope with the parameters [N] in it. `parts` are the slices of the vector, to differentiate by. */
export function layoutScope(
  layout: TrainableLayout,
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
