import { mkdir, mkdtemp, realpath, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fromBinary } from "@bufbuild/protobuf";
import { ModelProtoSchema, type TensorProto, TensorProto_DataLocation } from "onnx-buf";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import type { Graph } from "../graph/graph.js";
import { add, cast, constant, input, linear, mul, parameter, relu, reshape } from "../ops/index.js";
import { Runtime } from "../runtime/runtime.js";
import { float32, fromNumbers, type HostTensor, toNumbers } from "../tensor/host.js";
import { openSafetensors, writeSafetensors } from "../weights/safetensors.js";
import { fromTensors, merge, type WeightSource, withPrefix } from "../weights/source.js";
import { emit } from "./emit.js";

const IN = 300;
const OUT = 200;
const weightElements = Array.from({ length: OUT * IN }, (_, i) => ((i * 7) % 11) - 5);
const biasElements = Array.from({ length: OUT }, (_, i) => i / 8);

let folder: string;
let weights: WeightSource;
let runtime: Runtime;

beforeAll(async () => {
  runtime = await Runtime.start({ threads: 1 });
  folder = await realpath(await mkdtemp(join(tmpdir(), "alignprop-emit-")));
  for (const part of ["unet", "vae"]) await mkdir(join(folder, part));
  const files = [join(folder, "unet", "model.safetensors"), join(folder, "vae", "model.safetensors")] as const;
  // Comes before the weight, so that the weight does not start at the first byte of the data.
  const before = fromNumbers([1, 2, 3], [3], "float64");
  await writeSafetensors(
    files[0],
    new Map([
      ["before", before],
      ["weight", fromNumbers(weightElements, [OUT, IN])],
    ]),
  );
  await writeSafetensors(files[1], new Map([["bias", fromNumbers(biasElements, [OUT], "float16")]]));
  const [unet, vae] = await Promise.all(files.map((file) => openSafetensors(file)));
  weights = merge(withPrefix(unet as WeightSource, "unet."), withPrefix(vae as WeightSource, "vae."));
});

afterAll(async () => {
  await runtime.close();
  await rm(folder, { recursive: true });
});

/** y = x Wᵀ + b, with the weight in one file and the float16 bias in another. */
function linearGraph(): Graph {
  const x = input([2, IN]);
  const bias = cast(parameter("vae.bias", [OUT], "float16"), "float32");
  return {
    name: "linear",
    inputs: { x },
    outputs: { y: linear(x, parameter("unet.weight", [OUT, IN], "float32"), bias) },
  };
}

async function run(graph: Graph, feeds: Record<string, HostTensor>, source?: WeightSource) {
  const program = await runtime.compile(graph, source);
  const results = await program.run(feeds);
  await program.release();
  return Object.fromEntries(Object.entries(results).map(([name, tensor]) => [name, [...toNumbers(tensor)]]));
}

const external = ({ externalData }: TensorProto) =>
  Object.fromEntries(externalData.map(({ key, value }) => [key, value]));

describe("weights in files", () => {
  test("are not copied: the model holds their file below the common folder, offset and length", () => {
    const { bytes, weightFolder } = emit(linearGraph(), weights);
    expect(weightFolder).toBe(folder);
    const initializers = fromBinary(ModelProtoSchema, bytes).graph?.initializer ?? [];
    const outside = initializers.filter(({ dataLocation }) => dataLocation === TensorProto_DataLocation.EXTERNAL);
    expect(outside.map(({ name, dims }) => [name, dims.map(Number)])).toEqual([
      ["weight:unet.weight", [OUT, IN]],
      ["weight:vae.bias", [OUT]],
    ]);
    expect(outside.map(external)).toEqual(
      ["unet.weight", "vae.bias"].map((name) => {
        const stored = weights.get(name);
        if (stored?.kind !== "file") throw new Error(`${name} is not in a file`);
        const location = `${name.split(".")[0]}/model.safetensors`;
        return { location, offset: String(stored.offset), length: String(stored.length) };
      }),
    );
    // The weight alone takes 240,000 bytes.
    expect(bytes.length).toBeLessThan(2_000);
  });

  test("are read by the runtime, which casts float16", async () => {
    const x = Array.from({ length: 2 * IN }, (_, i) => (i % 5) - 2);
    const expected = Array.from({ length: 2 * OUT }, (_, at) => {
      const [row, column] = [Math.floor(at / OUT), at % OUT];
      let total = biasElements[column] as number;
      for (let i = 0; i < IN; i++) total += (x[row * IN + i] as number) * (weightElements[column * IN + i] as number);
      return total;
    });
    // Small integers and eighths are exact in float32.
    expect(await run(linearGraph(), { x: fromNumbers(x, [2, IN]) }, weights)).toEqual({ y: expected });
  });

  test("become one initializer, however often they are read", () => {
    const x = input([2, IN]);
    const read = () => linear(x, parameter("unet.weight", [OUT, IN], "float32"));
    const graph = { name: "twice", inputs: { x }, outputs: { y: add(read(), read()) } };
    const initializers = fromBinary(ModelProtoSchema, emit(graph, weights).bytes).graph?.initializer ?? [];
    expect(initializers.filter(({ name }) => name === "weight:unet.weight")).toHaveLength(1);
  });

  test("can be mixed with weights in memory", async () => {
    const x = input([OUT]);
    const y = add(mul(x, parameter("scale", [1], "float32")), cast(parameter("vae.bias", [OUT], "float16"), "float32"));
    const scale = fromTensors(new Map([["scale", float32(Float32Array.of(3), [1])]]));
    const result = await run(
      { name: "mixed", inputs: { x }, outputs: { y } },
      { x: fromNumbers(new Array(OUT).fill(2), [OUT]) },
      merge(scale, weights),
    );
    expect(result.y).toEqual(biasElements.map((value) => value + 6));
  });
});

describe("a weight that does not fit", () => {
  const reading = (name: string, shape: number[], dtype: "float32" | "float16") => {
    const x = input(shape);
    const y = add(x, cast(parameter(name, shape, dtype), "float32"));
    return () => emit({ name: "U-Net", inputs: { x }, outputs: { y } }, weights);
  };

  test("is reported with the graph, the tensor, both types and the files", () => {
    const source = ["unet", "vae"].map((part) => join(folder, part, "model.safetensors")).join(", ");
    const common = { graph: "U-Net", source };
    expect(reading("unet.missing", [2], "float32")).toThrow(
      inputError("tensor-missing", { ...common, tensor: "unet.missing", expected: "float32[2]" }),
    );
    expect(reading("unet.weight", [IN, OUT], "float32")).toThrow(
      inputError("tensor-mismatch", {
        ...common,
        tensor: "unet.weight",
        expected: `float32[${IN}, ${OUT}]`,
        found: `float32[${OUT}, ${IN}]`,
      }),
    );
    expect(reading("vae.bias", [OUT], "float32")).toThrow(
      inputError("tensor-mismatch", { tensor: "vae.bias", expected: "float32[200]", found: "float16[200]" }),
    );
  });

  test("is reported if there are no weights at all", () => {
    const y = relu(parameter("w", [1], "float32"));
    expect(() => emit({ name: "bare", inputs: {}, outputs: { y } })).toThrow(
      inputError("tensor-missing", { graph: "bare", tensor: "w", expected: "float32[1]", source: undefined }),
    );
  });
});

describe("names", () => {
  test("of weights, inputs and outputs may equal the generated names of values", async () => {
    const names = ["v0", "v1", "c0", "c1", "x"];
    const tensors = fromTensors(new Map(names.map((name, i) => [name, fromNumbers([10 ** i], [1])])));
    const inputs = { v0: input([1]), c0: input([1]), c1: input([1]) };
    let y = add(add(inputs.v0, mul(inputs.c0, 2)), mul(inputs.c1, constant([3], [1])));
    for (const name of names) y = add(y, parameter(name, [1], "float32"));
    const one = fromNumbers([1], [1]);
    const graph = { name: "names", inputs, outputs: { v1: y, v3: mul(y, 2), c2: relu(y) } };
    // 1 + 2 + 3 and the weights 1, 10, 100, …
    const total = 6 + 11_111;
    expect(await run(graph, { v0: one, c0: one, c1: one }, tensors)).toEqual({
      v1: [total],
      v3: [2 * total],
      c2: [total],
    });
  });

  test("of outputs may name one value twice, an input, a weight or a constant", async () => {
    const x = input([2]);
    const y = mul(x, 3);
    const w = parameter("w", [1], "float32");
    const graph = { name: "aliases", inputs: { x }, outputs: { y, again: y, same: x, w, c: constant([7], [1]) } };
    const weight = fromTensors(new Map([["w", fromNumbers([5], [1])]]));
    expect(await run(graph, { x: fromNumbers([1, 2], [2]) }, weight)).toEqual({
      y: [3, 6],
      again: [3, 6],
      same: [1, 2],
      w: [5],
      c: [7],
    });
  });

  test("of nodes hold the op and the type of its result", () => {
    const { bytes } = emit(linearGraph(), weights);
    const names = fromBinary(ModelProtoSchema, bytes).graph?.node.map(({ name }) => name);
    expect(names).toEqual([
      expect.stringMatching(/^cast → float32\[200\] #/),
      expect.stringMatching(/^gemm → float32\[2, 200\] #/),
    ]);
  });

  test("of outputs do not cost a copy: the node that computes the value takes the name", () => {
    const x = input([2]);
    const y = mul(x, 3);
    const { bytes } = emit({ name: "published", inputs: { x }, outputs: { y, z: mul(y, y) } });
    const nodes = fromBinary(ModelProtoSchema, bytes).graph?.node.map((node) => [...node.input, "→", ...node.output]);
    expect(nodes).toEqual([
      ["x", expect.any(String), "→", "y"],
      ["y", "y", "→", "z"],
    ]);
  });
});

test("equal constants are written once", () => {
  const x = input([2]);
  const y = mul(add(mul(x, 0.5), 0.5), constant([0.5, 1], [2]));
  const { bytes } = emit({ name: "constants", inputs: { x }, outputs: { y } });
  const shapes = fromBinary(ModelProtoSchema, bytes).graph?.initializer.map(({ dims }) => dims.map(Number));
  expect(shapes).toEqual([[], [2]]);
});

test("a reshape of a reshape is one node, or none if the shape ends up unchanged", async () => {
  const x = input([2, 6]);
  const y = mul(reshape(reshape(x, [3, 4]), [4, 3]), 2);
  const z = mul(reshape(reshape(x, [12]), [2, 6]), 3);
  const graph = { name: "views", inputs: { x }, outputs: { y, z } };
  const ops = fromBinary(ModelProtoSchema, emit(graph).bytes).graph?.node.map(({ opType }) => opType);
  expect(ops).toEqual(["Reshape", "Mul", "Mul"]);
  const values = Array.from({ length: 12 }, (_, i) => i);
  expect(await run(graph, { x: fromNumbers(values, [2, 6]) })).toEqual({
    y: values.map((value) => 2 * value),
    z: values.map((value) => 3 * value),
  });
});
