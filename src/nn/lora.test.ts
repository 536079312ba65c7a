import { describe, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { interpret } from "../graph/interpret.js";
import { add, input } from "../ops/index.js";
import { fromNumbers, type HostTensor } from "../tensor/host.js";
import { Rng } from "../tensor/rng.js";
import { fromTensors } from "../weights/source.js";
import { linear } from "./layers.js";
import { initialLora, loraAdapter, loraLayout } from "./lora.js";
import { frozenScope, type Scope } from "./scope.js";

const model = (scope: Scope, x = input([1, 2])) => {
  const attention = scope.at("attn1");
  return linear(attention.at("to_out").at(0), linear(attention.at("to_q"), x, 2, { bias: false }), 3);
};

const weights = new Map<string, HostTensor>([
  ["m.attn1.to_q.weight", fromNumbers([1, 0, 0, 1], [2, 2])],
  ["m.attn1.to_out.0.weight", fromNumbers([1, 0, 0, 1, 1, 1], [3, 2])],
  ["m.attn1.to_out.0.bias", fromNumbers([0, 0, 0], [3])],
]);

function run(alpha: number | null, targets: string[], factors: ArrayLike<number>): number[] {
  const layout = loraLayout({ rank: 2, alpha, targets }, "m", model);
  const lora = input([layout.size]);
  const { adapter } = loraAdapter(layout, lora);
  const x = input([1, 2]);
  const y = model(frozenScope(fromTensors(weights), "m", { adapter }), x);
  const result = interpret(
    { name: "m", inputs: { lora, x }, outputs: { y } },
    { lora: fromNumbers(factors, [layout.size]), x: fromNumbers([3, 5], [1, 2]) },
    (name) => weights.get(name),
  );
  return [...(result.y?.data ?? [])];
}

describe("LoRA", () => {
  test("adapts only the selected layers, in the order of the forward pass, A before B", () => {
    const layout = loraLayout({ rank: 4, alpha: 8, targets: ["to_out.0", "attn1.to_q"] }, "m", model);
    expect(layout.entries.map(({ name, factor, shape, offset }) => [name, factor, shape, offset])).toEqual([
      ["m.attn1.to_q.lora_A.weight", "A", [4, 2], 0],
      ["m.attn1.to_q.lora_B.weight", "B", [2, 4], 8],
      ["m.attn1.to_out.0.lora_A.weight", "A", [4, 2], 16],
      ["m.attn1.to_out.0.lora_B.weight", "B", [3, 4], 24],
    ]);
    expect(layout.entries.map(({ scale }) => scale)).toEqual([2, 2, 2, 2]);
  });

  // q = x + scale · B A x with A = [[1, 1], [0, 1]], B = [[1, 0], [0, 2]], x = [3, 5]:
  // A x = [8, 5], B A x = [8, 10]; out = [q₀, q₁, q₀ + q₁]
  test("adds B A x to the output", () => {
    expect(run(null, ["to_q"], [1, 1, 0, 1, 1, 0, 0, 2])).toEqual([11, 15, 26]);
  });

  test("scales B A x by alpha / rank", () => {
    expect(run(1, ["to_q"], [1, 1, 0, 1, 1, 0, 0, 2])).toEqual([7, 10, 17]);
  });

  test("starts from the unchanged model: B is 0, and A is normal with standard deviation 1 / rank", () => {
    const layout = loraLayout({ rank: 4, alpha: null, targets: ["to_q"] }, "m", (scope) =>
      linear(scope.at("to_q"), input([1, 5000]), 3),
    );
    const flat = initialLora(layout, new Rng(7));
    const down = flat.subarray(0, 4 * 5000);
    const deviation = Math.sqrt(down.reduce((total, a) => total + a * a, 0) / down.length);
    expect(deviation).toBeCloseTo(1 / 4, 2);
    expect(new Set(flat.subarray(4 * 5000))).toEqual(new Set([0]));
    expect(run(null, ["to_q"], new Float32Array(8).fill(0, 4).fill(1, 0, 4))).toEqual([3, 5, 8]);
  });

  test("refuses a target that selects no layer, and suggests the nearest name", () => {
    const settings = { rank: 4, alpha: null, targets: ["to_q", "to_outt.0"] };
    expect(() => loraLayout(settings, "m", model)).toThrow(
      inputError("setting-invalid", {
        setting: "lora.targets",
        found: "to_outt.0",
        suggestion: "to_out.0",
        model: "m",
        groups: ["attention", "feed-forward", "projections", "convolutions"],
        layers: ["to_q", "to_out.0"],
      }),
    );
  });

  test("compares whole names: to_q does not select add_to_q", () => {
    const build = (scope: Scope) =>
      add(linear(scope.at("add_to_q"), input([1, 2]), 2), linear(scope.at("to_q"), input([1, 2]), 2));
    const layout = loraLayout({ rank: 1, alpha: null, targets: ["to_q"] }, "m", build);
    expect(layout.entries.map(({ module }) => module)).toEqual(["m.to_q", "m.to_q"]);
  });
});
