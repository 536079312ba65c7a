/** What of an output becomes the reward, and what of the file may be an output. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { afterAll, describe, expect, test } from "vitest";
import { inputError } from "../../../test/errors.js";
import { type ModelInit, model, node, tensor } from "../../../test/onnx-model.js";
import { gradients } from "../../autodiff/index.js";
import { interpret } from "../../graph/interpret.js";
import type { Value } from "../../graph/value.js";
import { filled, input } from "../../ops/index.js";
import { Rng } from "../../tensor/rng.js";
import { onnxReward, onnxSchema } from "./onnx.js";

const scratch = mkdtempSync(join(tmpdir(), "alignprop-onnx-outputs-"));
afterAll(() => rmSync(scratch, { recursive: true }));
const path = join(scratch, "model.onnx");

const write = (init: ModelInit) => writeFileSync(path, model(init));
const open = (settings: Record<string, unknown> = {}) =>
  onnxReward(onnxSchema.parse({ name: "onnx", file: path, ...settings }), { find: (location) => location });

/** The rewards, the gradient of their sum, and the warnings. */
async function run(settings: Record<string, unknown>, pixels: readonly number[], shape: readonly number[]) {
  const reward = await open(settings);
  const images = input(shape);
  const { rewards } = reward.build(images);
  const [gradient] = gradients([{ value: rewards, gradient: filled(rewards.shape, 1) }], [images]);
  const outputs = { rewards, gradient: gradient as Value };
  const results = interpret(
    { name: "reward", inputs: { images }, outputs },
    { images: { shape, data: Float64Array.from(pixels) } },
  );
  return {
    rewards: [...(results.rewards?.data ?? [])],
    gradient: [...(results.gradient?.data ?? [])],
    warnings: reward.warnings([]),
  };
}

/** The image itself, [b, 3, h, w]. */
const IDENTITY: ModelInit = {
  inputs: { x: ["n", 3, "h", "w"] },
  outputs: ["y"],
  nodes: [node("Identity", ["x"], ["y"])],
  opset: 17,
};
/** The image as [b, 3, pixels]. */
const ROWS: ModelInit = {
  ...IDENTITY,
  nodes: [node("Reshape", ["x", "rows"], ["y"])],
  initializers: [tensor("rows", [0, 0, -1])],
};
const twoByTwo = [1, 2, 3, 4, 10, 20, 30, 40, -1, -2, -3, -4];
const shape = [1, 3, 2, 2];

describe("a map [b, c, h, w] becomes one number", () => {
  test.each([
    ["mean", 100 / 12],
    ["sum", 100],
    ["max", 40],
    ["min", -4],
    [{ quantile: 1 }, 40],
    // Ascending: -4 -3 -2 -1 1 2 3 4 10 20 30 40, at place 0.9 · 11 = 9.9
    [{ quantile: 0.9 }, 29],
  ])("by reduce: %j", async (reduce, expected) => {
    write(IDENTITY);
    expect((await run({ reduce }, twoByTwo, shape)).rewards[0]).toBeCloseTo(expected, 5);
  });

  test("of a class, whose axis is the one of the channels, and of a region", async () => {
    write(IDENTITY);
    expect((await run({ class: 1, reduce: "mean" }, twoByTwo, shape)).rewards).toEqual([25]);
    expect((await run({ class: 1, reduce: "mean", region: [0, 0.5, 1, 1] }, twoByTwo, shape)).rewards).toEqual([30]);
    expect((await run({ reduce: "max", region: [0, 0, 0.5, 0.5] }, twoByTwo, shape)).rewards).toEqual([10]);
    const { gradient } = await run({ class: 0, reduce: "sum", region: [0.5, 0, 1, 1] }, twoByTwo, shape);
    expect(gradient).toEqual([0, 0, 1, 1, ...new Array(8).fill(0)]);
  });

  test("whose probabilities are over its classes", async () => {
    write(IDENTITY);
    const { rewards } = await run({ class: 2, score: "softmax", reduce: "mean" }, [0, 0, 0], [1, 3, 1, 1]);
    expect(rewards[0]).toBeCloseTo(1 / 3, 6);
  });

  test("or is refused, with what to set", async () => {
    write(IDENTITY);
    const facts = { path, output: "y", perImage: 3 * 224 * 224, setting: "reward.reduce" };
    await expect(open()).rejects.toThrow(inputError("reward-invalid", facts));
    await expect(open({ class: 1 })).rejects.toThrow(inputError("reward-invalid", { ...facts, perImage: 224 * 224 }));
    await expect(open({ reduce: "mean", region: [0.5, 0, 0.5, 1] })).rejects.toThrow(
      inputError("reward-invalid", { setting: "reward.region" }),
    );
  });
});

describe("an output [b, n, c] that could have its classes on two axes", () => {
  test("is refused with both readings", async () => {
    write(ROWS);
    await expect(open({ class: 1 })).rejects.toThrow(
      inputError("reward-invalid", { path, setting: "reward.class_axis", class: 1, candidates: [1, 2] }),
    );
  });

  test("is read as class_axis says", async () => {
    write(ROWS);
    // Number 1 of each row of pixels, and row 1.
    expect((await run({ class: 1, class_axis: 2 }, twoByTwo, shape)).rewards).toEqual([20]);
    expect((await run({ class: 1, class_axis: 1, reduce: "min" }, twoByTwo, shape)).rewards).toEqual([10]);
    await expect(open({ class: 1, class_axis: 3 })).rejects.toThrow(
      inputError("reward-invalid", { setting: "reward.class_axis", found: 3 }),
    );
    await expect(open({ class: 3, class_axis: 1 })).rejects.toThrow(inputError("reward-invalid", { class: 3 }));
  });

  test("is known if only one axis is long enough", async () => {
    write({ ...ROWS, inputs: { x: ["n", 3, 4, 4] } });
    expect((await run({ class: 9 }, [...Array(48).keys()], [1, 3, 4, 4])).rewards).toEqual([41]);
  });

  test("is known by the labels in the metadata of a YOLO file, whose first four numbers are the box", async () => {
    const nodes = [node("Concat", ["x", "x", "x"], ["nine"], { axis: 1 }), node("Reshape", ["nine", "rows"], ["y"])];
    // 4 + 5 channels, n = 4 boxes
    const names = `{0: 'a', 1: "driver's hat", 2: 'it\\'s', 3: 'd', 4: 'e'}`;
    write({ ...ROWS, nodes, metadata: { names } });
    // Class 1 is channel 5: the last of the second copy.
    expect((await run({ class: "driver's hat" }, twoByTwo, shape)).rewards).toEqual([-1]);
    expect((await run({ class: 0 }, twoByTwo, shape)).rewards).toEqual([40]);
    await expect(open({ class: "its" })).rejects.toThrow(
      inputError("reward-invalid", { setting: "reward.class", found: "its", suggestion: "it's" }),
    );
  });
});

test("any tensor of the file can be the output, which takes a detector as it is before NonMaxSuppression", async () => {
  const nodes = [
    node("ReduceMean", ["x"], ["scores"], { axes: [1, 2, 3], keepdims: 0 }),
    node("NonZero", ["scores"], ["y"]),
  ];
  write({ ...IDENTITY, nodes });
  expect((await run({ output: "scores" }, [1, 2, 3], [1, 3, 1, 1])).rewards).toEqual([2]);
  await expect(open()).rejects.toThrow(inputError("onnx-unsupported", { operator: "NonZero", input: 0 }));
  await expect(open({ output: "score" })).rejects.toThrow(
    inputError("reward-invalid", { setting: "reward.output", found: "score", suggestion: "scores" }),
  );
});

test("what a model of one image computes without an axis for it is that image's", async () => {
  const nodes = [node("Reshape", ["x", "flat"], ["y"])];
  write({ ...IDENTITY, inputs: { x: [1, 3, "h", "w"] }, nodes, initializers: [tensor("flat", [-1])] });
  expect((await run({ reduce: "max" }, [1, 5, 2, 7, 3, 4], [2, 3, 1, 1])).rewards).toEqual([5, 7]);
  write({ ...IDENTITY, nodes, initializers: [tensor("flat", [-1])] });
  await expect(open({ reduce: "max" })).rejects.toThrow(inputError("reward-invalid", { output: "y", expected: 1 }));
});

test("an output of integers is refused with the tensors before it that have a gradient", async () => {
  const nodes = [
    node("Softmax", ["x"], ["probabilities"], { axis: 1 }),
    node("ArgMax", ["probabilities"], ["y"], { axis: 1, keepdims: 0 }),
  ];
  write({ ...IDENTITY, nodes });
  await expect(open({ reduce: "mean" })).rejects.toThrow(
    inputError("reward-no-gradient", { output: "y", before: ["probabilities"] }),
  );
});

describe("an input of integers", () => {
  const init = (cast: boolean): ModelInit => ({
    ...IDENTITY,
    inputs: { x: ["n", "h", "w", 3] },
    types: { x: "uint8" },
    nodes: [
      node("Transpose", ["x"], ["t"], { perm: [0, 3, 1, 2] }),
      ...(cast ? [node("Cast", ["t"], ["f"], { to: 1 })] : [node("Identity", ["t"], ["f"])]),
      node("ReduceMean", ["f"], ["y"], { axes: [1, 2, 3], keepdims: 0 }),
    ],
  });

  test("takes an image as 0 … 255, rounded, and passes the gradient", async () => {
    write(init(true));
    const { rewards, gradient, warnings } = await run({}, [0.1, 0.5, 0.999], [1, 3, 1, 1]);
    // 25.5, 127.5 and 254.745 round to 26, 128 and 255.
    expect(rewards[0]).toBeCloseTo((26 + 128 + 255) / 3, 5);
    for (const slope of gradient) expect(slope).toBeCloseTo(255 / 3, 4);
    expect(warnings).toEqual([expect.stringContaining("the integer input")]);
    const bytes = model(init(true));
    const session = await InferenceSession.create(bytes);
    const { y } = await session.run({ x: new Tensor("uint8", Uint8Array.of(26, 128, 255), [1, 1, 1, 3]) });
    expect(rewards[0]).toBeCloseTo(Number(y?.data[0]), 4);
  });

  test("may have another range by the settings, and is not confused with a second input of floating point", async () => {
    write(init(true));
    expect((await run({ preprocessing: { range: [0, 100] } }, [1, 1, 1], [1, 3, 1, 1])).rewards[0]).toBeCloseTo(100, 4);
    write({
      ...init(true),
      inputs: { x: ["n", "h", "w", 3], other: ["n", 3, "h", "w"] },
      outputs: ["z"],
      nodes: [node("ReduceMean", ["other"], ["z"], { axes: [1, 2, 3] })],
    });
    expect((await run({ inputs: { x: 0 } }, [0.5, 0.5, 0.5], [1, 3, 1, 1])).rewards[0]).toBeCloseTo(0.5, 5);
  });
});

describe("rounding", () => {
  const rounded = (...nodes: ModelInit["nodes"]): ModelInit => ({
    ...IDENTITY,
    nodes: [...nodes, node("ReduceMean", ["r"], ["y"], { axes: [1, 2, 3], keepdims: 0 })],
    initializers: [tensor("many", [255], [], "float32")],
  });

  test.each([
    ["Round", [node("Mul", ["x", "many"], ["m"]), node("Round", ["m"], ["r"])]],
    ["Floor", [node("Mul", ["x", "many"], ["m"]), node("Floor", ["m"], ["r"])]],
    [
      "Cast",
      [node("Mul", ["x", "many"], ["m"]), node("Cast", ["m"], ["u"], { to: 2 }), node("Cast", ["u"], ["r"], { to: 1 })],
    ],
  ])("that leaves no gradient passes it, and that is said: %s", async (name, nodes) => {
    write(rounded(...nodes));
    const { rewards, gradient, warnings } = await run({}, [0.1, 0.1, 0.1], [1, 3, 1, 1]);
    expect(rewards[0]).toBeCloseTo(name === "Round" ? 26 : 25, 5);
    for (const slope of gradient) expect(slope).toBeCloseTo(85, 4);
    expect(warnings).toEqual([expect.stringContaining(name)]);
  });

  test("beside which there is a gradient has its own derivative, 0", async () => {
    // The fraction of 255 x.
    write(rounded(node("Mul", ["x", "many"], ["m"]), node("Floor", ["m"], ["f"]), node("Sub", ["m", "f"], ["r"])));
    const { gradient, warnings } = await run({}, [0.1, 0.1, 0.1], [1, 3, 1, 1]);
    for (const slope of gradient) expect(slope).toBeCloseTo(85, 4);
    expect(warnings).toEqual([]);
  });
});

test("a model with QDQ has the value of ONNX Runtime and nearly the gradient of the model without", async () => {
  const rng = new Rng(3);
  const weights = Array.from({ length: 3 * 3 * 9 }, () => rng.normal() / 5);
  const scale = 0.01;
  const quantized = weights.map((w) => Math.max(-128, Math.min(127, Math.round(w / scale))));
  const tail = [node("Relu", ["c"], ["r"]), node("ReduceMean", ["r"], ["y"], { axes: [1, 2, 3], keepdims: 0 })];
  const float: ModelInit = {
    ...IDENTITY,
    nodes: [node("Conv", ["x", "w"], ["c"]), ...tail],
    initializers: [
      tensor(
        "w",
        quantized.map((q) => q * scale),
        [3, 3, 3, 3],
        "float32",
      ),
    ],
  };
  const qdq: ModelInit = {
    ...IDENTITY,
    nodes: [
      node("QuantizeLinear", ["x", "sx", "zx"], ["qx"]),
      node("DequantizeLinear", ["qx", "sx", "zx"], ["dx"]),
      { ...node("DequantizeLinear", ["qw", "sw", "zw"], ["dw"]), name: "weights" },
      node("Conv", ["dx", "dw"], ["c"]),
      ...tail,
    ],
    initializers: [
      tensor("qw", quantized, [3, 3, 3, 3], "int8"),
      tensor("sw", [scale], [], "float32"),
      tensor("zw", [0], [], "int8"),
      tensor("sx", [1 / 255], [], "float32"),
      tensor("zx", [0], [], "uint8"),
    ],
  };
  const pixels = Array.from({ length: 192 }, () => rng.uniform());
  const size = [1, 3, 8, 8];
  write(float);
  const plain = await run({}, pixels, size);
  write(qdq);
  const found = await run({}, pixels, size);
  const session = await InferenceSession.create(model(qdq), { graphOptimizationLevel: "disabled" });
  const { y } = await session.run({ x: new Tensor(Float32Array.from(pixels), size) });
  expect(found.rewards[0]).toBeCloseTo(Number(y?.data[0]), 5);
  const dot = (a: readonly number[], b: readonly number[]) => a.reduce((sum, x, i) => sum + x * (b[i] as number), 0);
  const cosine =
    dot(found.gradient, plain.gradient) /
    Math.sqrt(dot(found.gradient, found.gradient) * dot(plain.gradient, plain.gradient));
  expect(cosine).toBeGreaterThan(0.99);
  expect(found.warnings).toEqual([expect.stringContaining("QuantizeLinear")]);
});
