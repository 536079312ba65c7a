/** What a file says about a node is read, known to have no effect, or refused by name. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { inputError } from "../../../test/errors.js";
import { type Attributes, functionProto, type ModelInit, model, node, tensor } from "../../../test/onnx-model.js";
import { gradients } from "../../autodiff/index.js";
import { interpret } from "../../graph/interpret.js";
import type { Value } from "../../graph/value.js";
import { filled, input } from "../../ops/index.js";
import type { DType } from "../../tensor/dtype.js";
import { openOnnx } from "./file.js";
import { OnnxImport } from "./import.js";

const scratch = mkdtempSync(join(tmpdir(), "alignprop-guard-"));
afterAll(() => rmSync(scratch, { recursive: true }));
const path = join(scratch, "model.onnx");

type Given = Readonly<Record<string, { readonly shape: readonly number[]; readonly data: readonly number[] }>>;

/** y and the gradients of its sum, for inputs that vary. */
async function run(init: Omit<ModelInit, "inputs" | "outputs">, given: Given, outputs: readonly string[] = ["y"]) {
  const inputs = Object.fromEntries(Object.entries(given).map(([name, { shape }]) => [name, shape]));
  writeFileSync(path, model({ ...init, inputs, outputs }));
  const values = Object.fromEntries(Object.entries(given).map(([name, { shape }]) => [name, input(shape)]));
  const imported = new OnnxImport(await openOnnx(path), values);
  const y = imported.output(outputs[0] as string);
  const feeds = Object.fromEntries(
    Object.entries(given).map(([name, { shape, data }]) => [name, { shape, data: Float64Array.from(data) }]),
  );
  const found = gradients([{ value: y, gradient: filled(y.shape, 1) }], Object.values(values));
  const slopes = Object.fromEntries(
    Object.keys(values).flatMap((name, i) => (found[i] ? [[`d${name}`, found[i] as Value] as const] : [])),
  );
  const all = interpret({ name: "guard", inputs: values, outputs: { y, ...slopes } }, feeds);
  return Object.fromEntries(Object.entries(all).map(([name, { data }]) => [name, [...data]]));
}

const vector = (...data: number[]) => ({ shape: [data.length], data });
const shaped = (shape: readonly number[], ...data: number[]) => ({ shape, data });
const one = (operator: string, attributes: Attributes = {}, inputs: readonly string[] = ["x"]) => ({
  nodes: [node(operator, inputs, ["y"], attributes)],
});
const close = (found: readonly number[] | undefined, expected: readonly number[], digits = 4) => {
  expect(found?.length).toBe(expected.length);
  for (const [i, value] of expected.entries()) expect(found?.[i]).toBeCloseTo(value, digits);
};

describe("is refused by name, if no importer asked for it,", () => {
  const refused = (facts: Readonly<Record<string, unknown>>) => inputError("onnx-unsupported", { path, ...facts });

  test("an attribute", async () => {
    await expect(run(one("Relu", { alpha: { float: 2 } }), { x: vector(1, 2) })).rejects.toThrow(
      refused({ node: "the Relu", operator: "Relu", attribute: "alpha" }),
    );
  });

  test("an input", async () => {
    await expect(run(one("Relu", {}, ["x", "x"]), { x: vector(1, 2) })).rejects.toThrow(
      refused({ node: "the Relu", operator: "Relu", input: 1 }),
    );
  });

  test("an output that the node names", async () => {
    await expect(run({ nodes: [node("Relu", ["x"], ["y", "more"])] }, { x: vector(1, 2) })).rejects.toThrow(
      refused({ node: "the Relu", operator: "Relu", output: 1 }),
    );
  });

  test("but not an output without a name, or what is known to have no effect", async () => {
    const nodes = [node("Dropout", ["x"], ["h", ""], { seed: 3 }), node("TopK", ["h", "k"], ["y", "i"], { sorted: 0 })];
    const { y } = await run({ nodes, initializers: [tensor("k", [2])] }, { x: vector(1, 3, 2) });
    expect(y).toEqual([3, 2]);
  });

  test("what a call passes to a function of the file that does not take it", async () => {
    const twice = functionProto({
      name: "Twice",
      domain: "own",
      input: ["a"],
      output: ["b"],
      node: [node("Add", ["a", "a"], ["b"])],
    });
    const call = (attributes: Attributes, inputs: readonly string[] = ["x"]) =>
      run({ nodes: [node("own.Twice", inputs, ["y"], attributes)], functions: [twice] }, { x: vector(1) });
    expect((await call({})).y).toEqual([2]);
    await expect(call({ alpha: 1 })).rejects.toThrow(
      inputError("file-malformed", { path, operator: "own.Twice", attribute: "alpha" }),
    );
    await expect(call({}, ["x", "x"])).rejects.toThrow(inputError("file-malformed", { path, operator: "own.Twice" }));
  });
});

describe("training mode is refused", () => {
  const statistics = ["s", "b", "m", "v"].map((name) => tensor(name, [1], [1], "float32"));
  const norm = (outputs: readonly string[], attributes: Attributes, opset: number) =>
    run(
      {
        nodes: [node("BatchNormalization", ["x", "s", "b", "m", "v"], outputs, attributes)],
        opset,
        initializers: statistics,
      },
      { x: shaped([1, 1, 2], 0, 2) },
    );

  test("of BatchNormalization: opsets 9 to 13 say it by naming further outputs", async () => {
    await expect(norm(["y", "mean", "var"], { momentum: { float: 0.9 } }, 9)).rejects.toThrow(
      inputError("onnx-unsupported", { path, operator: "BatchNormalization", output: 1 }),
    );
    expect((await norm(["y", "", ""], { momentum: { float: 0.9 } }, 9)).y).toHaveLength(2);
  });

  test("of BatchNormalization by its attribute, and statistics for each pixel", async () => {
    await expect(norm(["y"], { training_mode: 1 }, 15)).rejects.toThrow(
      inputError("onnx-unsupported", { path, attribute: "training_mode" }),
    );
    await expect(norm(["y"], { spatial: 0 }, 8)).rejects.toThrow(
      inputError("onnx-unsupported", { path, attribute: "spatial" }),
    );
    expect((await norm(["y"], { spatial: 1 }, 8)).y).toHaveLength(2);
  });

  test("of Dropout, which is random then", async () => {
    const dropout = (training: number) =>
      run(
        {
          nodes: [node("Dropout", ["x", "r", "t"], ["y"])],
          initializers: [tensor("r", [0.5], [], "float32"), tensor("t", [training], [], "bool")],
        },
        { x: vector(1, 2) },
      );
    await expect(dropout(1)).rejects.toThrow(inputError("onnx-unsupported", { path, operator: "Dropout", input: 2 }));
    expect((await dropout(0)).y).toEqual([1, 2]);
  });
});

describe("Attention", () => {
  const heads = (...rows: number[]) => shaped([1, 1, rows.length, 1], ...rows);
  const attention = async (given: Given, attributes: Attributes = {}, extra: Partial<ModelInit> = {}) => {
    const inputs = ["q", "k", "v", ...(extra.initializers ?? []).map(({ name }) => name)];
    const init = { nodes: [node("Attention", inputs, ["y"], attributes)], opset: 25, ...extra };
    return run(init, given);
  };

  test("caps its scores", async () => {
    // softmax(tanh 3, tanh -3) · (1, 5)
    const { y } = await attention({ q: heads(3), k: heads(1, -1), v: heads(1, 5) }, { softcap: { float: 1 } });
    close(y, [1.481]);
  });

  test("attends within its window", async () => {
    const given = { q: heads(1, 1, 1), k: heads(1, 2, 3), v: heads(1, 5, 9) };
    close((await attention(given, { left_window_size: 0, right_window_size: 0 })).y, [1, 5, 9]);
    close((await attention(given, { is_causal: 1 })).y?.slice(0, 1) ?? [], [1]);
  });

  test.each([
    ["of false", tensor("mask", [0, 0], [1, 2], "bool")],
    ["of minus infinity", tensor("mask", [-Infinity, -Infinity], [1, 2], "float32")],
  ])("of a row that a mask %s hides is 0, and so is its gradient", async (_, mask) => {
    const found = await attention({ q: heads(3), k: heads(1, -1), v: heads(1, 5) }, {}, { initializers: [mask] });
    expect(found.y).toEqual([0]);
    for (const name of ["dq", "dk", "dv"])
      expect(
        found[name]?.every((value) => value === 0),
        name,
      ).toBe(true);
  });

  test("returns the scores that qk_matmul_output_mode names", async () => {
    const of = (mode: number) =>
      run(
        {
          nodes: [
            node("Attention", ["q", "k", "v"], ["", "", "", "y"], {
              qk_matmul_output_mode: mode,
              softcap: { float: 1 },
            }),
          ],
          opset: 24,
        },
        { q: heads(3), k: heads(1, -1), v: heads(1, 5) },
      );
    close((await of(0)).y, [3, -3]);
    close((await of(1)).y, [Math.tanh(3), Math.tanh(-3)]);
    close((await of(3)).y, [0.8798, 0.1202]);
  });
});

test("a constant of bytes that would wrap around is refused", async () => {
  const nodes = [node("Add", ["a", "b"], ["s"]), node("Cast", ["s"], ["f"], { to: 1 }), node("Add", ["x", "f"], ["y"])];
  const sum = (b: number) =>
    run({ nodes, initializers: [tensor("a", [200], [1], "uint8"), tensor("b", [b], [1], "uint8")] }, { x: vector(1) });
  expect((await sum(55)).y).toEqual([256]);
  await expect(sum(56)).rejects.toThrow(inputError("onnx-unsupported", { path, operator: "Add" }));
});

describe("the value is right", () => {
  test("of SpaceToDepth in both orders", async () => {
    const x = shaped([1, 2, 2, 2], 0, 1, 2, 3, 4, 5, 6, 7);
    expect((await run({ ...one("SpaceToDepth", { blocksize: 2, mode: "CRD" }), opset: 26 }, { x })).y).toEqual(x.data);
    expect((await run(one("SpaceToDepth", { blocksize: 2 }), { x })).y).toEqual([0, 4, 1, 5, 2, 6, 3, 7]);
  });

  test("of LpNormalization of zeros: 0, without a gradient", async () => {
    for (const p of [1, 2]) {
      const { y, dx } = await run(one("LpNormalization", { p }), { x: vector(0, 0) });
      expect(y).toEqual([0, 0]);
      expect(dx).toEqual([0, 0]);
    }
  });

  test("of Mod, as fmod of C and as % of Python", async () => {
    const of = async (x: readonly number[], by: number, fmod: number) =>
      (
        await run(
          { ...one("Mod", { fmod }, ["x", "m"]), initializers: [tensor("m", [by], [], "float32")] },
          { x: vector(...x) },
        )
      ).y;
    expect(await of([1, -1], Number.POSITIVE_INFINITY, 1)).toEqual([1, -1]);
    expect(await of([1, -1], Number.POSITIVE_INFINITY, 0)).toEqual([1, Number.POSITIVE_INFINITY]);
    // 0.3 is 0.30000001192… in float32
    close(await of([1e6], 0.3, 1), [0.0603]);
    close(await of([-7, 7], 3, 0), [2, 1]);
  });

  test("of ReduceMax and ReduceMin of no booleans, and refused of no integers", async () => {
    const empty = (operator: string, dtype: DType) =>
      run(
        {
          nodes: [
            node(operator, ["e", "a"], ["m"]),
            node("Cast", ["m"], ["c"], { to: 1 }),
            node("Add", ["x", "c"], ["y"]),
          ],
          initializers: [tensor("e", [], [2, 0], dtype), tensor("a", [1])],
        },
        { x: shaped([2, 1], 5, 5) },
      );
    expect((await empty("ReduceMax", "bool")).y).toEqual([5, 5]);
    expect((await empty("ReduceMin", "bool")).y).toEqual([6, 6]);
    await expect(empty("ReduceMax", "int64")).rejects.toThrow(
      inputError("onnx-unsupported", { operator: "ReduceMax" }),
    );
  });

  test("of ReduceLogSumExp of minus infinity, without a gradient", async () => {
    const { y, dx } = await run(one("ReduceLogSumExp"), { x: vector(-Infinity, -Infinity) });
    expect(y).toEqual([-Infinity]);
    expect(dx).toEqual([0, 0]);
  });

  test("of the gradient of ReduceL2 at 0: 0, as in PyTorch", async () => {
    const { y, dx } = await run(one("ReduceL2"), { x: vector(0, 0) });
    expect([y, dx]).toEqual([[0], [0, 0]]);
    close((await run(one("ReduceL2"), { x: vector(3, 4) })).dx, [0.6, 0.8]);
  });

  test("of the gradient of Softplus at 0: ½", async () => {
    close((await run(one("Softplus"), { x: vector(-1, 0, 1) })).dx, [0.2689, 0.5, 0.7311]);
  });

  test("of EyeLike, whose dtype may differ from that of its input", async () => {
    const nodes = [node("EyeLike", ["i"], ["e"], { dtype: 1 }), node("Add", ["e", "x"], ["y"])];
    const { y } = await run(
      { nodes, initializers: [tensor("i", [7, 7, 7, 7], [2, 2])] },
      { x: shaped([2, 2], 0, 0, 0, 0) },
    );
    expect(y).toEqual([1, 0, 0, 1]);
  });

  test("of Resize that crops: beyond the edge stands extrapolation_value", async () => {
    const init = {
      ...one(
        "Resize",
        { coordinate_transformation_mode: "tf_crop_and_resize", extrapolation_value: { float: 10 }, mode: "linear" },
        ["x", "roi", "", "sizes"],
      ),
      initializers: [tensor("roi", [0, 0.5, 0, 1.5], [4], "float32"), tensor("sizes", [1, 3])],
    };
    // Columns 1, 2 and 3 of 0, 1, 2.
    expect((await run(init, { x: shaped([1, 3], 0, 1, 2) })).y).toEqual([1, 2, 10]);
  });

  test("of Gather with negative indices that are not constant, and of its gradient", async () => {
    const nodes = [
      node("ArgMax", ["x"], ["i"], { keepdims: 0 }),
      node("Sub", ["i", "n"], ["j"]),
      node("Gather", ["x", "j"], ["y"]),
    ];
    const { y, dx } = await run({ nodes, initializers: [tensor("n", [3], [])] }, { x: vector(1, 5, 2) });
    expect(y).toEqual([5]);
    expect(dx).toEqual([0, 1, 0]);
  });
});
