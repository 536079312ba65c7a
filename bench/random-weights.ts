/** Random weights of a published model's size. They cost the same time and memory as trained ones. */
import { writeFileAtomic } from "../src/io/atomic.js";
import { type ParameterEntry, type Scope, survey } from "../src/nn/scope.js";
import { BYTES_PER_ELEMENT } from "../src/tensor/dtype.js";
import { fromNumbers } from "../src/tensor/host.js";
import { Rng } from "../src/tensor/rng.js";
import { sizeOf } from "../src/tensor/shape.js";

export type WeightType = "float32" | "float16";

const TYPE_NAMES: Readonly<Record<WeightType, string>> = { float32: "F32", float16: "F16" };

/**
 * Writes the parameters that a model declares to one safetensors file. Their variance keeps activations near 1, and none is 0,
 * so that no gradient vanishes. Only one tensor is in memory at a time. Returns the number of parameters.
 */
export async function writeRandomWeights(
  file: string,
  dtype: WeightType,
  build: (scope: Scope) => unknown,
): Promise<number> {
  const { entries, size } = survey("model", build).parameters;
  await writeFileAtomic(file, chunks(entries, dtype));
  return size;
}

/** The header of a safetensors file, and then the bytes of each tensor in turn. */
function* chunks(entries: readonly ParameterEntry[], dtype: WeightType): Generator<Uint8Array> {
  let end = 0;
  const described = entries.map(({ name, shape }) => {
    const begin = end;
    end += sizeOf(shape) * BYTES_PER_ELEMENT[dtype];
    return [name.slice("model.".length), { dtype: TYPE_NAMES[dtype], shape, data_offsets: [begin, end] }];
  });
  const header = JSON.stringify({ __metadata__: { format: "pt" }, ...Object.fromEntries(described) });
  // Spaces after the header align the tensors.
  const start = Buffer.alloc(8 + Math.ceil(Buffer.byteLength(header) / 8) * 8, " ");
  start.writeBigUInt64LE(BigInt(start.length - 8));
  start.write(header, 8);
  yield start;
  const rng = new Rng(0);
  for (const entry of entries) {
    const { data } = fromNumbers(randomValues(entry, rng), entry.shape, dtype);
    yield new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  }
}

function randomValues({ shape, init }: ParameterEntry, rng: Rng): Float32Array {
  const values = new Float32Array(sizeOf(shape));
  // The scale of a norm.
  if ("constant" in init && init.constant === 1) return values.fill(1);
  const bound = shape.length > 1 ? Math.sqrt(1.5 / sizeOf(shape.slice(1))) : 0.01;
  for (let i = 0; i < values.length; i++) values[i] = bound * (2 * rng.uniform() - 1);
  return values;
}
