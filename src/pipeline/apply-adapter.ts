/** Applies an adapter of any kind to a model: LoRA as parameters of its graphs, DoRA as other weights of the U-Net. */
import { InputError } from "../errors/index.js";
import { survey } from "../nn/scope.js";
import { float32, type HostTensor, toNumbers } from "../tensor/host.js";
import { at, type Matrix, matrix, product } from "../tensor/matrix.js";
import { sizeOf } from "../tensor/shape.js";
import { type Adapter, type DoraModule, type LoraModule, loraScale } from "../weights/lora-files.js";
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
    if (!module.magnitude) {
      plain.set(path, module);
      continue;
    }
    requireFit(pipeline, adaptable, path, module);
    const key = `${path}.weight`;
    const weight = await readTensor(pipeline.weights.get(key) as StoredTensor);
    replaced.set(key, decomposed(path, weight, module));
  }
  return {
    pipeline:
      replaced.size === 0
        ? pipeline
        : { ...pipeline, weights: merge(fromTensors(replaced, pipeline.weights.describe), pipeline.weights) },
    lora: plain.size === 0 ? undefined : toFlat(pipeline, plain),
  };
}

/** DoRA's weight (Liu et al. 2024, equation 5): m · (W + ΔW) / ‖W + ΔW‖, with one norm per output or input feature. */
function decomposed(path: string, weight: HostTensor, module: DoraModule): HostTensor {
  const [rows = 0, inputs = 0, ...kernel] = weight.shape;
  const taps = sizeOf(kernel);
  const columns = inputs * taps;
  const values = toNumbers(weight);
  const change = product(asMatrix(module.up), asMatrix(module.down));
  const scale = loraScale(module);
  const changed = matrix(rows, columns, (i, j) => (values[i * columns + j] as number) + scale * at(change, i, j));
  const { axis, values: stored } = module.magnitude;
  const magnitudes = toNumbers(stored);
  const features = axis === "out" ? rows : inputs;
  if (magnitudes.length !== features) {
    throw new InputError(
      "adapter-mismatch",
      `adapter: ${path} has ${magnitudes.length} magnitudes, but the layer has ${features} ${axis}put features. ` +
        "Was the adapter made for another model?",
      { layer: path, found: magnitudes.length, expected: features },
    );
  }
  const featureOf = (i: number, j: number) => (axis === "out" ? i : Math.floor(j / taps));
  const squares = new Float64Array(features);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) {
      const feature = featureOf(i, j);
      squares[feature] = (squares[feature] as number) + at(changed, i, j) ** 2;
    }
  }
  const result = new Float32Array(rows * columns);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) {
      const feature = featureOf(i, j);
      const norm = Math.sqrt(squares[feature] as number);
      result[i * columns + j] = ((magnitudes[feature] as number) / norm) * at(changed, i, j);
    }
  }
  return float32(result, weight.shape);
}

function asMatrix(tensor: HostTensor): Matrix {
  const [rows = 0, ...rest] = tensor.shape;
  return { rows, columns: sizeOf(rest), data: toNumbers(tensor) };
}
