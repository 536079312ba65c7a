/** Between an adapter as files hold it, a module at a time, and as training holds it: one vector. */
import { unet, unetInputs } from "../models/unet/unet.js";
import { flatLayout } from "../nn/flat.js";
import { type LoraEntry, type LoraLayout, type LoraSettings, loraLayout } from "../nn/lora.js";
import { type Scope, survey } from "../nn/scope.js";
import { InputError, nearest } from "../tensor/errors.js";
import { float32, type HostTensor, toFloat32 } from "../tensor/host.js";
import { sizeOf } from "../tensor/shape.js";
import { type LoraAdapter, loraRank, loraScale } from "../weights/lora-files.js";
import type { Pipeline } from "./pipeline.js";

/** An adapter of the U-Net: which factors, and their values in one vector. */
export interface FlatLora {
  readonly layout: LoraLayout;
  readonly weights: Float32Array;
}

/** The factors that these settings make of the model's U-Net. */
export function adapterLayout(pipeline: Pipeline, settings: LoraSettings): LoraLayout {
  return loraLayout(settings, "unet", smallestUnet(pipeline));
}

/** The vector as modules that share its memory. */
export function toModules({ layout, weights }: FlatLora): LoraAdapter {
  const factors = new Map<string, HostTensor>();
  for (const { name, shape, offset } of layout.entries) {
    factors.set(name, float32(weights.subarray(offset, offset + sizeOf(shape)), shape));
  }
  const modules = layout.entries.filter(({ factor }) => factor === "A").map(({ module }) => module);
  return new Map(
    modules.map((module) => [
      module,
      {
        down: factors.get(`${module}.lora_A.weight`) as HostTensor,
        up: factors.get(`${module}.lora_B.weight`) as HostTensor,
        ...(layout.scale !== 1 && { alpha: layout.scale * layout.rank }),
      },
    ]),
  );
}

/** A loaded adapter as a vector for this model, each module with the rank that it has; alphas are multiplied into B. */
export function toFlat(pipeline: Pipeline, adapter: LoraAdapter): FlatLora {
  const { linears } = survey("unet", smallestUnet(pipeline));
  const byPath = new Map(linears.map((linear) => [linear.path, linear]));
  const tensors = [...adapter].flatMap(([module, { down, up }]) => {
    const linear = byPath.get(module);
    if (!linear) {
      const near = nearest(module, byPath.keys());
      throw new InputError(
        `adapter: the model in ${pipeline.path} has no Linear layer ${module}${near ? `; the nearest is ${near}` : ""}. Was the adapter made for another model?`,
      );
    }
    const { inFeatures, outFeatures } = linear;
    if (down.shape[1] !== inFeatures || up.shape[0] !== outFeatures) {
      throw new InputError(
        `adapter: ${module} goes from ${down.shape[1]} to ${up.shape[0]} features, but in the model in ${pipeline.path} from ${inFeatures} to ${outFeatures}. Was the adapter made for another model?`,
      );
    }
    return [
      { name: `${module}.lora_A.weight`, module, factor: "A", shape: down.shape } as const,
      { name: `${module}.lora_B.weight`, module, factor: "B", shape: up.shape } as const,
    ];
  });
  const layout = flatLayout<Omit<LoraEntry, "offset">>(tensors);
  const weights = new Float32Array(layout.size);
  const modules = [...adapter.values()];
  for (const [i, module] of modules.entries()) {
    const [a, b] = [layout.entries[2 * i] as LoraEntry, layout.entries[2 * i + 1] as LoraEntry];
    const scale = loraScale(module);
    weights.set(toFloat32(module.down), a.offset);
    weights.set(
      toFloat32(module.up).map((value) => scale * value),
      b.offset,
    );
  }
  return { layout: { ...layout, rank: Math.max(...modules.map(loraRank)), scale: 1 }, weights };
}

/** The U-Net on the smallest inputs that it takes: enough to see its layers. */
function smallestUnet({ unet: config }: Pipeline): (scope: Scope) => unknown {
  const side = 2 ** (config.levels.length - 1);
  const inputs = unetInputs(config, { batch: 1, height: side, width: side, tokens: 1 });
  return (scope) => unet(scope, config, inputs);
}
