/** Mutated ONNX files are read correctly or refused. */
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { clone, fromBinary, toBinary } from "@bufbuild/protobuf";
import { type AttributeProto, type ModelProto, ModelProtoSchema, type NodeProto } from "onnx-buf";
import { afterAll, test } from "vitest";
import { gradients } from "../../src/autodiff/index.js";
import { InputError } from "../../src/errors/index.js";
import { verify } from "../../src/graph/graph.js";
import { openOnnx } from "../../src/onnx/import/file.js";
import { OnnxImport } from "../../src/onnx/import/import.js";
import { OPERATORS } from "../../src/onnx/import/operators/index.js";
import { REFUSED } from "../../src/onnx/import/operators/refused.js";
import { filled, input } from "../../src/ops/index.js";
import type { Rng } from "../../src/tensor/rng.js";
import { sizeOf } from "../../src/tensor/shape.js";
import { functionProto, graph, model, node, tensor } from "../onnx-model.js";
import { fuzz, LIMIT, scratchFolder } from "./fuzz.js";
import { mutateBytes } from "./mutate.js";

const folder = scratchFolder();
afterAll(() => rmSync(folder, { recursive: true }));
const GOLDENS = fileURLToPath(new URL("../goldens/", import.meta.url));

/** Messages of JavaScript errors. If one appears in an InputError, the importer has a bug. */
const INTERNAL = /undefined|not a function|not iterable|Cannot |call stack|array length|rank NaN|axis NaN|NaN\]|\[NaN/;

const path = join(folder, "model.onnx");
async function readModel(bytes: Uint8Array): Promise<void> {
  writeFileSync(path, bytes);
  try {
    const file = await openOnnx(path);
    for (const name of file.weights.names()) {
      const stored = file.weights.get(name);
      if (stored?.kind === "file" && stored.offset + stored.length > bytes.length)
        throw new Error(`${name} is outside of the file`);
    }
    const inputs = Object.fromEntries(
      file.inputs.map(({ name, shape, dtype }) => {
        const whole = shape.map((extent) => (typeof extent === "number" ? extent : 2));
        if (whole.length > 8 || sizeOf(whole) > 2 ** 24)
          throw new InputError("usage", "a caller does not make such an input");
        return [name, input(whole, dtype.startsWith("float") ? "float32" : dtype)];
      }),
    );
    const imported = new OnnxImport(file, inputs);
    for (const name of file.outputs) {
      const value = imported.output(name);
      const floating = Object.values(inputs).filter(({ dtype }) => dtype === "float32");
      const small = sizeOf(value.shape) <= 2 ** 20 && value.dtype === "float32";
      const found = small ? gradients([{ value, gradient: filled(value.shape, 1) }], floating) : [];
      const named = found.flatMap((gradient, i) => (gradient ? [[`gradient${i}`, gradient] as const] : []));
      verify({ name: "fuzz", inputs, outputs: Object.fromEntries([["value of the output", value], ...named]) });
    }
  } catch (error) {
    if (error instanceof InputError && INTERNAL.test(error.message)) throw new Error(error.message, { cause: error });
    throw error;
  }
}

/** A model with a convolution, shape arithmetic, a branch and a local function. */
const EVERYTHING = model({
  inputs: { image: ["batch", 3, 8, 8] },
  outputs: ["scores", "best"],
  initializers: [
    tensor(
      "kernel",
      Array.from({ length: 108 }, (_, i) => Math.sin(i)),
      [4, 3, 3, 3],
      "float32",
    ),
    tensor("scale", [1, 2, 3, 4], [4], "float32"),
    tensor("half", [0.5], [], "float16"),
    tensor("zero", [0], []),
    tensor("one", [1]),
    tensor("rest", [-1]),
    tensor("last", [-1, 2 ** 40]),
    tensor("ends", [2 ** 40]),
    tensor("pads", [0, 0, 1, 1, 0, 0, 1, 1]),
    tensor("sizes", [2, 4, 6, 6]),
    tensor("true", [1], [], "bool"),
    tensor(
      "matrix",
      Array.from({ length: 4 * 300 }, (_, i) => Math.cos(i)),
      [4, 300],
      "float32",
    ),
  ],
  functions: [
    functionProto({
      name: "Twice",
      domain: "own",
      input: ["x"],
      output: ["y"],
      opsetImport: [{ domain: "", version: 18n }],
      node: [node("Add", ["x", "x"], ["y"])],
    }),
  ],
  nodes: [
    node("Conv", ["image", "kernel", "scale"], ["a"], { pads: [1, 1, 1, 1], strides: [2, 2] }),
    node("BatchNormalization", ["a", "scale", "scale", "scale", "scale"], ["b"]),
    node("Relu", ["b"], ["c"]),
    node("MaxPool", ["c"], ["d"], { kernel_shape: [3, 3], strides: [1, 1], ceil_mode: 1 }),
    node("Pad", ["d", "pads"], ["e"]),
    node("Resize", ["e", "", "", "sizes"], ["f"], { mode: "linear" }),
    node("own.Twice", ["f"], ["g"]),
    node("If", ["true"], ["h"], {
      then_branch: graph([node("Mul", ["g", "half32"], ["p"]), node("Cast", ["half"], ["half32"], { to: 1 })], ["p"]),
      else_branch: graph([node("Sigmoid", ["g"], ["q"])], ["q"]),
    }),
    node("AveragePool", ["h"], ["i"], { kernel_shape: [2, 2], pads: [1, 1, 0, 0] }),
    node("Slice", ["i", "one", "ends", "rest"], ["j"]),
    node("Shape", ["j"], ["k"]),
    node("Gather", ["k", "zero"], ["l"]),
    node("Unsqueeze", ["l", "zero1"], ["m"]),
    node("Constant", [], ["zero1"], { value: tensor("", [0]) }),
    node("Concat", ["m", "four", "rest"], ["n"], { axis: 0 }),
    node("Constant", [], ["four"], { value_ints: [4] }),
    node("Reshape", ["j", "n"], ["o"]),
    node("ReduceMean", ["o"], ["r"], { axes: [-1], keepdims: 0 }),
    node("Einsum", ["r", "matrix"], ["s"], { equation: "bc,cd->bd" }),
    node("Softmax", ["s"], ["scores"]),
    node("TopK", ["scores", "one"], ["best", "where"]),
  ],
});

const FRAGMENTS = [
  "\x08\x07",
  "\xff\xff\xff\xff\x0f",
  "\x0a\x00",
  "\x12",
  "\x2a",
  "image",
  "Conv",
  "\x80".repeat(12),
  "\x0a\x02".repeat(200),
];

test("ONNX files, byte by byte", LIMIT, async () => {
  await readModel(EVERYTHING);
  await fuzz(4_1, (rng) => mutateBytes(EVERYTHING, rng, FRAGMENTS), readModel);
});

test("an exported ONNX file, byte by byte", LIMIT, async () => {
  const exported = readFileSync(join(GOLDENS, "onnx", "squeezenet.dynamo-21.onnx"));
  await fuzz(4_2, (rng) => mutateBytes(exported, rng, FRAGMENTS), readModel);
});

const OPERATOR_NAMES = [...Object.keys(OPERATORS), ...Object.keys(REFUSED), "Twice", "If", "Nonsense", "__proto__"];
const NUMBERS = [0, 1, -1, 2, 3, 4, 5, 7, 100, -100, 2 ** 15, 2 ** 31, -(2 ** 31), 2 ** 40, 2 ** 53];

function mutateModel(valid: ModelProto, rng: Rng): Uint8Array {
  const mutant = clone(ModelProtoSchema, valid);
  for (let edits = rng.integer(1, 3); edits > 0; edits--) editModel(mutant, rng);
  return toBinary(ModelProtoSchema, mutant);
}

function editModel({ graph, functions, opsetImport }: ModelProto, rng: Rng): void {
  if (!graph) return;
  const names = [
    ...graph.node.flatMap(({ output }) => output),
    ...graph.initializer.map(({ name }) => name),
    "image",
    "",
  ];
  const one = rng.choice([...graph.node, ...functions.flatMap((body) => body.node)]);
  const number = () => BigInt(rng.choice(NUMBERS));
  switch (rng.integer(0, 11)) {
    case 0:
      one.input[rng.integer(0, one.input.length)] = rng.choice(names);
      return;
    case 1:
      one.output[rng.integer(0, one.output.length)] = rng.choice(names);
      return;
    case 2:
      one.opType = rng.choice(OPERATOR_NAMES);
      return;
    case 3:
      graph.node.splice(rng.integer(0, graph.node.length - 1), 1);
      return;
    case 4:
      graph.node.push(copyOf(rng.choice(graph.node)));
      return;
    case 5:
      if (one.attribute.length > 0) editAttribute(rng.choice(one.attribute), rng);
      return;
    case 6:
      if (one.attribute.length > 0)
        rng.choice(one.attribute).name = rng.choice([
          "axis",
          "pads",
          "to",
          "kernel_shape",
          "value",
          "dilations",
          "mode",
        ]);
      return;
    case 7: {
      const { dims } = rng.choice(graph.initializer);
      dims[rng.integer(0, dims.length)] = number();
      return;
    }
    case 8: {
      const { rawData } = rng.choice(graph.initializer);
      if (rawData.length >= 8) new DataView(rawData.buffer, rawData.byteOffset).setBigInt64(0, number(), true);
      return;
    }
    case 9:
      rng.choice(graph.initializer).dataType = rng.integer(0, 27);
      return;
    case 10: {
      const dim = graph.input[0]?.type?.value;
      if (dim?.case === "tensorType")
        rng.choice(dim.value.shape?.dim ?? []).value = { case: "dimValue", value: number() };
      return;
    }
    default: {
      const first = opsetImport[0];
      if (first) first.version = BigInt(rng.choice([1, 9, 10, 11, 12, 13, 23, 1000]));
    }
  }
}

const copyOf = (node: NodeProto): NodeProto => ({ ...node, input: [...node.input], output: [...node.output] });

function editAttribute(attribute: AttributeProto, rng: Rng): void {
  const number = () => BigInt(rng.choice(NUMBERS));
  attribute.i = number();
  attribute.f = rng.choice([0, -1, 1e30, Number.NaN, Number.POSITIVE_INFINITY]);
  if (attribute.ints.length > 0 && rng.uniform() < 0.8)
    attribute.ints[rng.integer(0, attribute.ints.length)] = number();
  else attribute.type = rng.integer(0, 14);
}

test("ONNX files, node by node", LIMIT, async () => {
  const valid = fromBinary(ModelProtoSchema, EVERYTHING);
  await fuzz(4_3, (rng) => mutateModel(valid, rng), readModel);
});
