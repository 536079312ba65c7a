/** Random weights of a published model's size. They cost the same time and memory as trained ones. */
import { type Scope, survey } from "../src/nn/scope.js";
import type { DType } from "../src/tensor/dtype.js";
import { fromNumbers, type HostTensor } from "../src/tensor/host.js";
import { Rng } from "../src/tensor/rng.js";
import { sizeOf } from "../src/tensor/shape.js";
import { writeSafetensors } from "../src/weights/safetensors.js";

/**
 * Writes the parameters that a model declares to one file. Their variance keeps activations near 1, and none is 0, so that no
 * gradient vanishes. Returns the number of parameters.
 */
export async function writeRandomWeights(
  file: string,
  dtype: DType,
  build: (scope: Scope) => unknown,
): Promise<number> {
  const rng = new Rng(0);
  const tensors = new Map<string, HostTensor>();
  for (const { name, shape, init } of survey("model", build).parameters.entries) {
    const size = sizeOf(shape);
    const isScale = "constant" in init && init.constant === 1;
    const bound = shape.length > 1 ? Math.sqrt(1.5 / sizeOf(shape.slice(1))) : 0.01;
    const values = isScale
      ? new Float32Array(size).fill(1)
      : Float32Array.from({ length: size }, () => bound * (2 * rng.uniform() - 1));
    tensors.set(name.slice("model.".length), fromNumbers(values, shape, dtype));
  }
  await writeSafetensors(file, tensors, { format: "pt" });
  return [...tensors.values()].reduce((sum, { shape }) => sum + sizeOf(shape), 0);
}
