import { expect, test } from "vitest";
import { inputError } from "../../../test/errors.js";
import { interpret } from "../../graph/interpret.js";
import { frozenScope, survey } from "../../nn/scope.js";
import { input } from "../../ops/index.js";
import { fromNumbers, type HostTensor } from "../../tensor/host.js";
import { fromTensors } from "../../weights/source.js";
import { aestheticConfig, aestheticConfigOf, aestheticScore } from "./aesthetic.js";

test("the reference's widths give its layer indices and number of parameters", () => {
  const config = aestheticConfig([768, 1024, 128, 64, 16, 1]);
  const { parameters } = survey("head", (scope) => aestheticScore(scope, config, input([2, 768])));
  expect(parameters.entries.filter(({ name }) => name.endsWith("weight")).map(({ name }) => name)).toEqual([
    "head.layers.0.weight",
    "head.layers.2.weight",
    "head.layers.4.weight",
    "head.layers.6.weight",
    "head.layers.7.weight",
  ]);
  expect(parameters.size).toBe(768 * 1024 + 1024 + 1024 * 128 + 128 + 128 * 64 + 64 + 64 * 16 + 16 + 16 + 1);
});

test("the layers are applied without activations between them", () => {
  // W₁(W₀ x + b₀) + b₁ with W₀ = [[2, 0], [0, 3]], b₀ = [1, -1], W₁ = [[1, 1]], b₁ = [0.5]
  const tensors = new Map<string, HostTensor>([
    ["head.layers.0.weight", fromNumbers([2, 0, 0, 3], [2, 2])],
    ["head.layers.0.bias", fromNumbers([1, -1], [2])],
    ["head.layers.1.weight", fromNumbers([1, 1], [1, 2])],
    ["head.layers.1.bias", fromNumbers([0.5], [1])],
  ]);
  const source = fromTensors(tensors);
  const embedding = input([2, 2]);
  const score = aestheticScore(frozenScope(source, "head"), aestheticConfigOf(source, "head"), embedding);
  const graph = { name: "head", inputs: { embedding }, outputs: { score } };
  // x = [1, 2] → [3, 5] → 8.5;  x = [-4, 0] → [-7, -1] → -7.5
  const result = interpret(graph, { embedding: fromNumbers([1, 2, -4, 0], [2, 2]) }, (name) => tensors.get(name));
  expect([...(result.score?.data ?? [])]).toEqual([8.5, -7.5]);
});

test("a head whose layers do not fit each other is refused", () => {
  const source = fromTensors(
    new Map<string, HostTensor>([
      ["head.layers.0.weight", fromNumbers(new Float32Array(6), [3, 2])],
      ["head.layers.2.weight", fromNumbers(new Float32Array(4), [1, 4])],
    ]),
    "head.safetensors",
  );
  expect(() => aestheticConfigOf(source, "head")).toThrow(
    inputError("tensor-mismatch", {
      path: "head.safetensors",
      tensor: "head.layers.2.weight",
      found: 4,
      expected: 3,
      previous: "head.layers.0.weight",
    }),
  );
});

test("a head without layers, or with a layer that is not a matrix, is refused", () => {
  const empty = fromTensors(new Map<string, HostTensor>(), "head.safetensors");
  expect(() => aestheticConfigOf(empty, "head")).toThrow(
    inputError("tensor-missing", { path: "head.safetensors", tensor: "head.layers.0.weight" }),
  );
  const vector = fromTensors(
    new Map<string, HostTensor>([["head.layers.0.weight", fromNumbers(new Float32Array(3), [3])]]),
    "head.safetensors",
  );
  expect(() => aestheticConfigOf(vector, "head")).toThrow(
    inputError("tensor-mismatch", { path: "head.safetensors", tensor: "head.layers.0.weight", found: "[3]" }),
  );
});
