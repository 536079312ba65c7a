/**
 * Applies an adapter of any kind to a model. LoRA becomes parameters of its graphs. DoRA, and a change of full rank such as
 * that of most LoKr, becomes other weights of the U-Net: as factors it would double the arithmetic of its layers.
 */
import { InputError } from "../errors/index.js";
import { survey } from "../nn/scope.js";
import { float32, type HostTensor, toNumbers } from "../tensor/host.js";
import { type Matrix, product } from "../tensor/matrix.js";
import { type Shape, sizeOf } from "../tensor/shape.js";
import { type Adapter, type LoraModule, loraRank, loraScale, type Magnitude } from "../weights/lora-files.js";
import { fromTensors, merge, readTensor, type StoredTensor } from "../weights/source.js";
import { type FlatLora, requireFit, smallestUnet, toFlat } from "./adapter.js";
import type { Pipeline } from "./pipeline.js";

export interface Adapted {
  /** The model itself, unless the adapter replaces weights. */
  readonly pipeline: Pipeline;
  readonly lora: FlatLora | undefined;
}

/**
 * @throws InputError `adapter-mismatch` if the adapter was made for another model
 */
export async function applyAdapter(pipeline: Pipeline, adapter: Adapter | undefined): Promise<Adapted> {
  if (adapter === undefined) return { pipeline, lora: undefined };
  const plain = new Map<string, LoraModule>();
  const replaced = new Map<string, HostTensor>();
  const { adaptable } = survey("unet", smallestUnet(pipeline));
  for (const [path, module] of adapter) {
    const isFull = loraRank(module) >= Math.min(module.up.shape[0] as number, sizeOf(module.down.shape.slice(1)));
    if (!module.magnitude && !isFull) {
      plain.set(path, module);
      continue;
    }
    requireFit(pipeline, adaptable, path, module);
    const key = `${path}.weight`;
    const weight = await readTensor(pipeline.weights.get(key) as StoredTensor);
    const changed = changedWeight(weight, module);
    const { magnitude } = module;
    const merged = magnitude ? decomposed(path, changed, { magnitude, shape: weight.shape }) : changed.data;
    replaced.set(key, float32(new Float32Array(merged), weight.shape));
  }
  return {
    pipeline:
      replaced.size === 0
        ? pipeline
        : { ...pipeline, weights: merge(fromTensors(replaced, pipeline.weights.describe), pipeline.weights) },
    lora: plain.size === 0 ? undefined : toFlat(pipeline, plain),
  };
}

/** W + ΔW as a matrix [out, in · kh · kw]. */
function changedWeight(weight: HostTensor, module: Pick<LoraModule, "down" | "up" | "alpha">): Matrix {
  const scale = loraScale(module);
  const change = product(asMatrix(module.up), asMatrix(module.down));
  const sum = asMatrix(weight);
  for (let i = 0; i < sum.data.length; i++) sum.data[i] = (sum.data[i] as number) + scale * (change.data[i] as number);
  return sum;
}

/** DoRA's weight (Liu et al. 2024, equation 5): m · (W + ΔW) / ‖W + ΔW‖, with one norm per output or input feature. */
function decomposed(
  path: string,
  { rows, columns, data }: Matrix,
  { magnitude, shape }: { readonly magnitude: Magnitude; readonly shape: Shape },
): Float64Array {
  const { axis } = magnitude;
  const inputs = shape[1] as number;
  const magnitudes = toNumbers(magnitude.values);
  const features = axis === "out" ? rows : inputs;
  if (magnitudes.length !== features) {
    throw new InputError(
      "adapter-mismatch",
      `adapter: ${path} has ${magnitudes.length} magnitudes, but the layer has ${features} ${axis}put features. ` +
        "Was the adapter made for another model?",
      { layer: path, found: magnitudes.length, expected: features },
    );
  }
  const taps = columns / inputs;
  const featureOf = (at: number) => (axis === "out" ? Math.floor(at / columns) : Math.floor((at % columns) / taps));
  const squares = new Float64Array(features);
  for (let at = 0; at < data.length; at++) {
    const feature = featureOf(at);
    squares[feature] = (squares[feature] as number) + (data[at] as number) ** 2;
  }
  return data.map((value, at) => {
    const feature = featureOf(at);
    return ((magnitudes[feature] as number) / Math.sqrt(squares[feature] as number)) * value;
  });
}

function asMatrix(tensor: HostTensor): Matrix {
  const [rows = 0, ...rest] = tensor.shape;
  return { rows, columns: sizeOf(rest), data: toNumbers(tensor) };
}
