import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create, toBinary } from "@bufbuild/protobuf";
import { AttributeProtoSchema, ModelProtoSchema, TensorProto_DataLocation, TensorProtoSchema } from "onnx-buf";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inputError } from "../../../test/errors.js";
import { functionProto, graph, type ModelInit, model, node, tensor } from "../../../test/onnx-model.js";
import { topologicalOrder } from "../../graph/graph.js";
import { interpret } from "../../graph/interpret.js";
import type { Value } from "../../graph/value.js";
import { input } from "../../ops/index.js";
import { Runtime } from "../../runtime/runtime.js";
import { fromNumbers, toNumbers } from "../../tensor/host.js";
import { openOnnx } from "./file.js";
import { OnnxImport } from "./import.js";

const scratch = mkdtempSync(join(tmpdir(), "alignprop-import-"));
afterAll(() => rmSync(scratch, { recursive: true }));
const path = join(scratch, "model.onnx");

async function open(init: ModelInit | Uint8Array) {
  writeFileSync(path, init instanceof Uint8Array ? init : model(init));
  return openOnnx(path);
}

/** The model's only output for an input x of this shape. */
async function load(init: ModelInit | Uint8Array, shape: readonly number[] = [2, 3]): Promise<{ x: Value; y: Value }> {
  const file = await open(init);
  const x = input(shape);
  return { x, y: new OnnxImport(file, file.inputs.length > 0 ? { x } : {}).output(file.outputs[0] as string) };
}

/** y for x = 1, 2, 3 … */
async function evaluate(init: ModelInit, shape: readonly number[] = [2, 3]): Promise<number[]> {
  const { x, y } = await load(init, shape);
  const data = Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => i + 1);
  return [...(interpret({ name: "test", inputs: { x }, outputs: { y } }, { x: { shape, data } }).y?.data ?? [])];
}

const xy = { inputs: { x: [2, 3] }, outputs: ["y"] } as const;
const opsOf = (value: Value) => topologicalOrder([value]).map(({ op }) => op.name);

describe("shape arithmetic", () => {
  test("is folded into constants", async () => {
    // Reshapes x to [⌊(rows · 4 + 2) / 2⌋ - 3, -1], as exporters write it instead of [2, -1].
    const { y } = await load({
      ...xy,
      inputs: { x: ["n", 3] },
      initializers: [tensor("zero", [0], []), tensor("two", [2]), tensor("four", [4]), tensor("three", [3])],
      nodes: [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["rows"]),
        node("Unsqueeze", ["rows", "axis"], ["list"]),
        node("Constant", [], ["axis"], { value_ints: [0] }),
        node("Mul", ["list", "four"], ["a"]),
        node("Add", ["a", "two"], ["b"]),
        node("Div", ["b", "two"], ["c"]),
        node("Sub", ["c", "three"], ["d"]),
        node("Cast", ["d"], ["e"], { to: 1 }),
        node("Floor", ["e"], ["f"]),
        node("Cast", ["f"], ["g"], { to: 7 }),
        node("Concat", ["g", "h"], ["i"], { axis: 0 }),
        node("ConstantOfShape", ["one"], ["h"], { value: tensor("", [-1]) }),
        node("Constant", [], ["one"], { value_ints: [1] }),
        node("Reshape", ["x", "i"], ["y"]),
      ],
    });
    expect(y.shape).toEqual([2, 3]);
    expect(opsOf(y)).toEqual(["input"]);
  });

  test("divides integers as integers", async () => {
    const init = { ...xy, inputs: { x: [6] }, initializers: [tensor("a", [-7]), tensor("b", [2])] };
    const { y } = await load(
      {
        ...init,
        nodes: [
          node("Div", ["a", "b"], ["c"]),
          node("Expand", ["x", "s"], ["y"]),
          node("Abs", ["c"], ["t"]),
          node("Concat", ["t", "six"], ["s"], { axis: 0 }),
          node("Constant", [], ["six"], { value_ints: [6] }),
        ],
      },
      [6],
    );
    expect(y.shape).toEqual([3, 6]);
  });

  test("with a large result is left to the runtime", async () => {
    const { y } = await load(
      {
        ...xy,
        inputs: { x: [1] },
        nodes: [node("ConstantOfShape", ["shape"], ["zeros"]), node("Add", ["zeros", "x"], ["y"])],
        initializers: [tensor("shape", [1000, 1000, 100])],
      },
      [1],
    );
    expect(y.shape).toEqual([1000, 1000, 100]);
    expect(opsOf(y)).toContain("broadcastTo");
  });
});

describe("control flow", () => {
  const branches = {
    then_branch: graph([node("Add", ["x", "x"], ["t"])], ["t"]),
    else_branch: graph([node("Neg", ["inner"], ["e"])], ["e"], [tensor("inner", [5, 6], [2], "float32")]),
  };
  const choosing = (value: number): ModelInit => ({
    ...xy,
    initializers: [tensor("which", [value], [], "bool")],
    nodes: [node("If", ["which"], ["y"], branches)],
  });

  test("takes the branch of a constant condition, in which the names of the graph are visible", async () => {
    expect(await evaluate(choosing(1))).toEqual([2, 4, 6, 8, 10, 12]);
    expect(await evaluate(choosing(0))).toEqual([-5, -6]);
  });

  test("that depends on the image is refused with the node's name", async () => {
    const init = {
      ...xy,
      nodes: [
        node("ReduceMax", ["x"], ["m"], { keepdims: 0 }),
        node("Greater", ["m", "m"], ["c"]),
        node("If", ["c"], ["y"], branches),
      ],
    };
    await expect(load(init)).rejects.toThrow(
      inputError("onnx-unsupported", { path, node: "the If", operator: "If", input: 0, parameter: "condition" }),
    );
  });
});

describe("functions of the file", () => {
  const scaled = functionProto({
    name: "Scaled",
    domain: "own",
    input: ["a", "b"],
    output: ["out"],
    attribute: ["alpha"],
    attributeProto: [create(AttributeProtoSchema, { name: "power", type: 2, i: 7n })],
    opsetImport: [{ domain: "", version: 18n }],
    node: [
      {
        ...node("LeakyRelu", ["a"], ["r"]),
        attribute: [create(AttributeProtoSchema, { name: "alpha", type: 1, refAttrName: "alpha" })],
      },
      {
        ...node("Cast", ["r"], ["out"]),
        attribute: [create(AttributeProtoSchema, { name: "to", type: 2, refAttrName: "power" })],
      },
    ],
  });

  test("are inlined, with the attributes of the call and the defaults", async () => {
    const init = {
      ...xy,
      functions: [scaled],
      nodes: [node("Neg", ["x"], ["n"]), node("own.Scaled", ["n"], ["y"], { alpha: { float: 2 } })],
    };
    const { y } = await load(init);
    expect(y.dtype).toBe("int64");
    expect(await evaluate(init)).toEqual([-2, -4, -6, -8, -10, -12]);
  });

  test("that call themselves are refused", async () => {
    const loop = functionProto({ ...scaled, node: [node("own.Scaled", ["a"], ["out"])], attributeProto: [] });
    const init = { ...xy, functions: [loop], nodes: [node("own.Scaled", ["x"], ["y"])] };
    await expect(load(init)).rejects.toThrow(
      inputError("onnx-unsupported", { path, limit: 50, operator: "own.Scaled" }),
    );
  });

  test("that double at every level are refused at the limit on nodes", async () => {
    const body = (i: number) =>
      functionProto({
        name: `F${i}`,
        domain: "own",
        input: ["a"],
        output: ["c"],
        node:
          i === 0
            ? [node("Neg", ["a"], ["c"])]
            : [node(`own.F${i - 1}`, ["a"], ["b"]), node(`own.F${i - 1}`, ["b"], ["c"])],
      });
    const init = {
      ...xy,
      functions: Array.from({ length: 40 }, (_, i) => body(i)),
      nodes: [node("own.F39", ["x"], ["y"])],
    };
    await expect(load(init)).rejects.toThrow(inputError("onnx-unsupported", { path, limit: 100_000 }));
  });
});

describe("a node that cannot be imported is named", () => {
  test.each([
    [
      "an unknown operator, with the nearest supported one",
      [node("Sofmax", ["x"], ["y"])],
      { node: "the Sofmax", operator: "Sofmax", suggestion: "Softmax" },
    ],
    [
      "an operator of another domain",
      [node("com.microsoft.nchwc.Conv", ["x"], ["y"])],
      {
        node: "the Conv",
        operator: "com.microsoft.nchwc.Conv",
        reason: expect.stringContaining("ORT_ENABLE_EXTENDED"),
      },
    ],
    [
      "a loop",
      [node("Loop", ["x"], ["y"])],
      { node: "the Loop", operator: "Loop", reason: expect.stringContaining("Export the model for a fixed size") },
    ],
    [
      "a tree",
      [node("ai.onnx.ml.TreeEnsembleRegressor", ["x"], ["y"])],
      { operator: "ai.onnx.ml.TreeEnsembleRegressor", reason: expect.stringContaining("no gradient") },
    ],
    [
      "an operator that is new and short, without a wrong guess",
      [node("DFX", ["x"], ["y"])],
      { operator: "DFX", reason: expect.stringMatching(/^the operator DFX is not supported\. Export/) },
    ],
    [
      "the choice of boxes, with the tensors before it",
      [node("Neg", ["x"], ["scores"]), node("NonMaxSuppression", ["x", "scores"], ["y"])],
      { operator: "NonMaxSuppression", before: ["scores"] },
    ],
    [
      "values that decide how many results there are",
      [node("Exp", ["x"], ["e"]), node("Greater", ["e", "x"], ["g"]), node("NonZero", ["g"], ["y"])],
      { operator: "NonZero", input: 0, before: ["e"] },
    ],
    [
      "shapes that do not fit",
      [node("MatMul", ["x", "x"], ["y"])],
      {
        node: "the MatMul",
        operator: "MatMul",
        reason: expect.stringMatching(/^gemm: .*float32\[2, 3\].*float32\[2, 3\]/),
      },
    ],
    [
      "a shape that depends on the image",
      [node("Cast", ["x"], ["i"], { to: 7 }), node("Reshape", ["x", "i"], ["y"])],
      { operator: "Reshape", parameter: "shape", input: 1 },
    ],
    [
      "an attribute of another type",
      [node("Softmax", ["x"], ["y"], { axis: "one" })],
      { operator: "Softmax", attribute: "axis", found: "STRING", expected: "INT" },
    ],
  ] as const)("%s", async (_, nodes, facts) => {
    await expect(load({ ...xy, nodes: [...nodes] })).rejects.toThrow(
      inputError("onnx-unsupported", { path, ...facts }),
    );
  });

  test("unless no requested output depends on it", async () => {
    const nodes = [node("Neg", ["x"], ["y"]), node("NonMaxSuppression", ["x"], ["boxes"])];
    expect(await evaluate({ ...xy, nodes })).toEqual([-1, -2, -3, -4, -5, -6]);
  });
});

describe("a broken graph is refused", () => {
  test.each([
    [
      "that reads a name that nothing defines",
      [node("Neg", ["c_1"], ["y"]), node("Neg", ["x"], ["c_2"])],
      inputError("file-malformed", { path, name: "c_1", suggestion: "c_2" }),
    ],
    [
      "that has a cycle",
      [node("Add", ["x", "b"], ["a"]), node("Neg", ["a"], ["b"]), node("Neg", ["b"], ["y"])],
      inputError("file-malformed", { path, node: "the Neg", name: "b" }),
    ],
    [
      "that defines a name twice",
      [node("Neg", ["x"], ["y"]), node("Exp", ["x"], ["y"])],
      inputError("file-malformed", { path, name: "y" }),
    ],
    [
      "that defines its input again",
      [node("Neg", ["x"], ["x"]), node("Exp", ["x"], ["y"])],
      inputError("file-malformed", { path, name: "x" }),
    ],
    [
      "whose tensors would be too large",
      [node("Expand", ["x", "huge"], ["y"])],
      inputError("onnx-unsupported", { path, operator: "Expand", found: "float32[2147483647, 2, 3]", limit: 2 ** 31 }),
    ],
  ])("%s", async (_, nodes, error) => {
    await expect(load({ ...xy, nodes, initializers: [tensor("huge", [2 ** 31 - 1, 1, 1])] })).rejects.toThrow(error);
  });

  test("but not for its depth: a chain of 20,000 nodes is imported without recursion", async () => {
    const chain = Array.from({ length: 20_000 }, (_, i) =>
      node("Neg", [i === 0 ? "x" : `v${i}`], [i === 19_999 ? "y" : `v${i + 1}`]),
    );
    expect((await load({ ...xy, nodes: chain.reverse() })).y.shape).toEqual([2, 3]);
  });
});

describe("a hostile file is refused", () => {
  const sound = model({ ...xy, nodes: [node("Neg", ["x"], ["y"])] });

  test("if a length exceeds the file", async () => {
    const lying = sound.slice();
    lying[lying.indexOf(0x3a) + 1] = 0x7f;
    await expect(open(lying)).rejects.toThrow(
      inputError("file-malformed", { path, expected: 127, offset: expect.any(Number), found: expect.any(Number) }),
    );
    await expect(open(sound.subarray(0, 20))).rejects.toThrow(
      inputError("file-malformed", { path, offset: expect.any(Number) }),
    );
  });

  test("if a few bytes would decode to gigabytes", async () => {
    // 8 million empty nodes, which take two bytes each in the file and hundreds when decoded.
    const nodes = Buffer.alloc(16_000_000, Buffer.from([0x0a, 0x00]));
    const length: number[] = [];
    for (let rest = nodes.length; rest > 0; rest = Math.floor(rest / 128))
      length.push((rest % 128) | (rest >= 128 ? 0x80 : 0));
    await expect(open(Buffer.concat([Buffer.from([0x3a, ...length]), nodes]))).rejects.toThrow(
      inputError("file-too-large", { path, limit: 2 ** 30 }),
    );
  });

  test("if it is nested too deeply", async () => {
    let inner: Uint8Array = new Uint8Array();
    const wrap = (tag: number, bytes: Uint8Array) => {
      const length: number[] = [];
      for (let rest = bytes.length; rest > 0; rest = Math.floor(rest / 128))
        length.push((rest % 128) | (rest >= 128 ? 0x80 : 0));
      return Buffer.concat([Buffer.from([tag, ...(length.length > 0 ? length : [0])]), bytes]);
    };
    // graph → node → attribute → graph …
    for (let i = 0; i < 60; i++) inner = wrap(0x0a, wrap(0x2a, wrap(0x32, inner)));
    await expect(open(wrap(0x3a, inner))).rejects.toThrow(inputError("file-malformed", { path, limit: 100 }));
  });

  test.each([
    [
      "with fewer bytes than its shape",
      { ...tensor("w", [1, 2, 3]), dims: [4n] },
      inputError("file-malformed", { path, tensor: "w", expected: 32, found: 24 }),
    ],
    [
      "with a negative extent",
      { ...tensor("w", [1, 2]), dims: [-2n] },
      inputError("file-malformed", { path, tensor: "w", found: [-2] }),
    ],
    [
      "with a shape that exceeds any memory",
      { ...tensor("w", [1]), dims: [2n ** 40n, 2n ** 40n] },
      inputError("file-malformed", { path, tensor: "w", found: [2 ** 40, 2 ** 40] }),
    ],
    [
      "of 8-bit floating point",
      { ...tensor("w", [1]), dataType: 17 },
      inputError("onnx-unsupported", { path, tensor: "w", found: "FLOAT8E4M3FN" }),
    ],
    [
      "of 4-bit integers with too many bytes",
      { ...tensor("w", [1]), dataType: 22 },
      inputError("file-malformed", { path, tensor: "w", expected: 1, found: 8 }),
    ],
  ])("for a tensor %s", async (_, broken, error) => {
    await expect(open({ ...xy, nodes: [node("Neg", ["x"], ["y"])], initializers: [broken] })).rejects.toThrow(error);
  });

  test("for an opset before 7, or without a graph", async () => {
    await expect(open({ ...xy, nodes: [node("Neg", ["x"], ["y"])], opset: 6 })).rejects.toThrow(
      inputError("onnx-unsupported", { path, opset: 6, expected: 7 }),
    );
    await expect(open(toBinary(ModelProtoSchema, create(ModelProtoSchema)))).rejects.toThrow(
      inputError("file-malformed", { path }),
    );
  });
});

describe("weights", () => {
  const values = Array.from({ length: 3000 }, (_, i) => Math.sin(i));
  const product = (initializer: ReturnType<typeof tensor>): ModelInit => ({
    ...xy,
    nodes: [node("MatMul", ["x", "w"], ["y"])],
    initializers: [initializer],
  });
  const weight = (dtype: "float32" | "float16") => tensor("w", values, [3, 1000], dtype);
  let runtime: Runtime;
  beforeAll(async () => {
    runtime = await Runtime.start({ threads: 1 });
  });
  afterAll(() => runtime.close());

  /** y as the runtime computes it for x = [[1, 0, 0], [0, 1, 0]]. */
  async function run(at = path) {
    const file = await openOnnx(at);
    const x = input([2, 3]);
    const program = await runtime.compile(
      { name: "weights", inputs: { x }, outputs: { y: new OnnxImport(file, { x }).output("y") } },
      file.weights,
    );
    const { y } = await program.run({ x: fromNumbers([1, 0, 0, 0, 1, 0], [2, 3]) });
    await program.release();
    return toNumbers(y as NonNullable<typeof y>);
  }

  function external(location: string, extra: Readonly<Record<string, string>> = {}, dims = [3n, 1000n]) {
    const entries = Object.entries({ location, ...extra }).map(([key, value]) => ({
      $typeName: "onnx.StringStringEntryProto" as const,
      key,
      value,
    }));
    return {
      ...weight("float32"),
      dims,
      rawData: new Uint8Array(),
      dataLocation: TensorProto_DataLocation.EXTERNAL,
      externalData: entries,
    };
  }

  test("stay in the file", async () => {
    const file = await open(product(weight("float32")));
    expect(file.weights.get("w")).toMatchObject({ kind: "file", path, dtype: "float32", length: 12_000 });
    expect((await run())[1]).toBeCloseTo(Math.sin(1), 6);
    expect((await run())[1000]).toBeCloseTo(Math.sin(1000), 6);
  });

  test("and the decoded graph do not keep the content of the file in memory", async () => {
    const init = product(weight("float32"));
    const file = await open({
      ...init,
      nodes: [...init.nodes, node("Constant", [], ["c"], { value: tensor("", [1]), note: "words" })],
    });
    const held = (value: unknown): number => {
      if (ArrayBuffer.isView(value)) return value.buffer.byteLength;
      return typeof value === "object" && value !== null ? Math.max(0, ...Object.values(value).map(held)) : 0;
    };
    expect(held(file.graph)).toBeLessThan(100);
  });

  test("in float16 are cast by the graph", async () => {
    const file = await open(product(weight("float16")));
    expect(file.weights.get("w")).toMatchObject({ dtype: "float16", length: 6000 });
    expect((await run())[1]).toBeCloseTo(Math.sin(1), 3);
  });

  test("of 8-bit integers stay in the file, and those of 4 bits are unpacked, for the runtime to dequantize", async () => {
    const bytes = Array.from({ length: 3000 }, (_, i) => ((i * 7) % 15) - 8);
    const packed = create(TensorProtoSchema, {
      name: "w",
      dims: [3n, 1000n],
      dataType: 22,
      rawData: Uint8Array.from({ length: 1500 }, (_, i) => {
        return ((bytes[2 * i] as number) & 15) | (((bytes[2 * i + 1] as number) & 15) << 4);
      }),
    });
    for (const [w, kind] of [
      [tensor("w", bytes, [3, 1000], "int8"), "file"],
      [packed, "memory"],
    ] as const) {
      const nodes = [node("DequantizeLinear", ["w", "s"], ["f"]), node("MatMul", ["x", "f"], ["y"])];
      const file = await open({ ...xy, nodes, initializers: [w, tensor("s", [0.5], [], "float32")], opset: 21 });
      expect(file.weights.get("w")).toMatchObject({ kind, dtype: "int8" });
      const values = await run();
      for (const at of [0, 1, 2, 999, 1500]) {
        expect(values[at]).toBeCloseTo(0.5 * (bytes[at] as number), 6);
      }
    }
  });

  test("may be in files beside the model", async () => {
    writeFileSync(
      join(scratch, "model.data"),
      Buffer.concat([Buffer.alloc(64), Buffer.from(Float32Array.from(values).buffer)]),
    );
    await open(product(external("model.data", { offset: "64", length: "12000" })));
    expect((await run())[2]).toBeCloseTo(Math.sin(2), 6);
  });

  test("are found if the model and its data are links to files in one folder", async () => {
    const [blobs, snapshot] = [join(scratch, "blobs"), join(scratch, "snapshot")];
    mkdirSync(blobs);
    mkdirSync(snapshot);
    writeFileSync(join(blobs, "a"), model(product(external("weights.bin"))));
    writeFileSync(join(blobs, "b"), Float32Array.from(values));
    symlinkSync(join(blobs, "a"), join(snapshot, "model.onnx"));
    symlinkSync(join(blobs, "b"), join(snapshot, "weights.bin"));
    expect((await run(join(snapshot, "model.onnx")))[2]).toBeCloseTo(Math.sin(2), 6);
  });

  test.each([
    ["/etc/passwd", {}, "path-unsafe", {}],
    ["../secret", {}, "path-unsafe", {}],
    ["sub/../../secret", {}, "path-unsafe", {}],
    ["", {}, "path-unsafe", {}],
    ["link", {}, "path-unsafe", {}],
    ["none", {}, "file-not-found", { path: join(scratch, "none"), model: path }],
    ["short", {}, "file-malformed", { offset: 0, expected: 12_000, found: 8 }],
    ["short", { offset: "-1" }, "file-malformed", { key: "offset", found: "-1" }],
    ["short", { length: "8" }, "file-malformed", { expected: 12_000, found: 8 }],
  ] as const)("at %j %j are refused: %s", async (location, extra, code, facts) => {
    const outside = mkdtempSync(join(tmpdir(), "alignprop-outside-"));
    writeFileSync(join(outside, "secret"), Float32Array.from(values));
    rmSync(join(scratch, "link"), { force: true });
    symlinkSync(join(outside, "secret"), join(scratch, "link"));
    writeFileSync(join(scratch, "short"), "12345678");
    await expect(open(product(external(location, extra)))).rejects.toThrow(
      inputError(code, { path, tensor: "w", location, ...facts }),
    );
    rmSync(outside, { recursive: true });
  });
});
