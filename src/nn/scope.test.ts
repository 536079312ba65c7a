import { describe, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { gradients } from "../autodiff/index.js";
import { interpret } from "../graph/interpret.js";
import { filled, input, mul, sum } from "../ops/index.js";
import { fromNumbers, type HostTensor, toNumbers } from "../tensor/host.js";
import { Rng } from "../tensor/rng.js";
import { fromTensors } from "../weights/source.js";
import { flatTensors, joinFlat } from "./flat.js";
import { conv2d, groupNorm, linear } from "./layers.js";
import { frozenScope, initialParameters, ONES, type Scope, survey, trainableScope, ZEROS } from "./scope.js";

const source = fromTensors(
  new Map<string, HostTensor>([
    ["unet.conv_in.weight", fromNumbers(new Float32Array(6), [2, 3])],
    ["unet.half", fromNumbers([1.5], [1], "float16")],
    ["unet.ids", fromNumbers([0, 1], [2], "int64")],
  ]),
  "model.safetensors",
);

describe("a frozen scope", () => {
  const scope = frozenScope(source, "unet");

  test("names a missing tensor and the nearest name in the source", () => {
    expect(() => scope.at("conv_im").parameter("weight", [2, 3])).toThrow(
      inputError("tensor-missing", {
        path: "model.safetensors",
        tensor: "unet.conv_im.weight",
        expected: [2, 3],
        suggestion: "unet.conv_in.weight",
      }),
    );
  });

  test("names both shapes if they differ", () => {
    expect(() => scope.at("conv_in").parameter("weight", [3, 3])).toThrow(
      inputError("tensor-mismatch", { tensor: "unet.conv_in.weight", found: [2, 3], expected: [3, 3] }),
    );
  });

  test("refuses weights that are not floating point", () => {
    expect(() => scope.parameter("ids", [2])).toThrow(
      inputError("tensor-mismatch", {
        tensor: "unet.ids",
        found: "int64",
        expected: ["float16", "bfloat16", "float32", "float64"],
      }),
    );
  });

  test("casts other floating point types to float32", () => {
    const value = scope.parameter("half", [1]);
    expect(value.dtype).toBe("float32");
    expect(value.node.inputs[0]?.dtype).toBe("float16");
  });

  test("gives the same value for the same name", () => {
    expect(scope.parameter("half", [1])).toBe(scope.parameter("half", [1]));
  });
});

describe("a trainable scope", () => {
  const build = (scope: Scope, x = input([2, 3])) =>
    mul(linear(scope.at("fc"), x, 2), scope.parameter("scale", [1], ONES));

  test("lays out each parameter once, in the order of the forward pass", () => {
    const { parameters } = survey("m", (scope) => [build(scope), build(scope)]);
    expect(parameters.entries.map(({ name, shape, offset }) => [name, shape, offset])).toEqual([
      ["m.fc.weight", [2, 3], 0],
      ["m.fc.bias", [2], 6],
      ["m.scale", [1], 8],
    ]);
    expect(parameters.size).toBe(9);
  });

  test("gives the gradient with respect to all weights as one vector", () => {
    // y = s (W x + b), loss = Σ y:  dW = s x per row, db = s, ds = Σ (W x + b)
    const { parameters } = survey("m", build);
    const flat = input([parameters.size]);
    const x = input([1, 3]);
    const { scope, parts } = trainableScope(parameters, flat, "m");
    const loss = sum(build(scope, x), [0, 1]);
    const gradient = joinFlat(parameters, gradients([{ value: loss, gradient: filled([], 1) }], parts));
    const result = interpret(
      { name: "m", inputs: { flat, x }, outputs: { gradient } },
      { x: fromNumbers([1, 2, 3], [1, 3]), flat: fromNumbers([1, 0, 0, 0, 1, 0, 10, 20, 5], [9]) },
    );
    // W x + b = [1 + 10, 2 + 20]
    expect([...(result.gradient?.data ?? [])]).toEqual([5, 10, 15, 5, 10, 15, 5, 5, 33]);
  });

  test("gives zeros for a parameter without a gradient", () => {
    const { parameters } = survey("m", build);
    const gradient = joinFlat(parameters, [undefined, filled([2], 4), undefined]);
    const { gradient: result } = interpret({ name: "m", inputs: {}, outputs: { gradient } }, {});
    expect([...(result?.data ?? [])]).toEqual([0, 0, 0, 0, 0, 0, 4, 4, 0]);
  });

  test("refuses a model other than the surveyed one", () => {
    const { parameters } = survey("m", build);
    const { scope } = trainableScope(parameters, input([parameters.size]), "m");
    expect(() => linear(scope.at("fc"), input([2, 4]), 2)).toThrow(
      "m.fc.weight must be [2, 4], but in the layout it is [2, 3]",
    );
  });

  test("initializes as PyTorch does: convolutions uniform in ±1/√fanIn, norms as the identity", () => {
    const { parameters } = survey("m", (scope) =>
      groupNorm(
        scope.at("norm"),
        conv2d(scope.at("conv"), input([1, 8, 4, 4]), { outChannels: 64, kernel: 3 }),
        4,
        1e-5,
      ),
    );
    const tensors = flatTensors(parameters, initialParameters(parameters, new Rng(1)));
    const weights = tensors.get("m.conv.weight")?.data as Float32Array;
    const bound = 1 / Math.sqrt(8 * 3 * 3);
    const variance = weights.reduce((total, w) => total + w * w, 0) / weights.length;
    expect(Math.max(...weights.map(Math.abs))).toBeLessThanOrEqual(bound);
    // The variance of a uniform distribution in ±a is a²/3.
    expect(variance / (bound ** 2 / 3)).toBeCloseTo(1, 1);
    expect([...toNumbers(tensors.get("m.norm.weight") as HostTensor)]).toEqual(Array(64).fill(1));
    expect([...toNumbers(tensors.get("m.norm.bias") as HostTensor)]).toEqual(Array(64).fill(0));
  });

  test("initializes layers with zeroInit to zero", () => {
    const { parameters } = survey("m", (scope) => linear(scope, input([1, 3]), 2, { zeroInit: true }));
    expect(parameters.entries.map(({ init }) => init)).toEqual([ZEROS, ZEROS]);
  });
});
