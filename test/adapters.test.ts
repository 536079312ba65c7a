/** Adapters that diffusers, PEFT and sd-scripts write (parity/adapters.py), on the tiny model's U-Net. */
import { readFile } from "node:fs/promises";
import { afterAll, expect, test } from "vitest";
import { gradients } from "../src/autodiff/index.js";
import type { Value } from "../src/graph/value.js";
import { unet, unetInputs } from "../src/models/unet/unet.js";
import { joinFlat } from "../src/nn/flat.js";
import { input } from "../src/ops/index.js";
import { toFlat } from "../src/pipeline/adapter.js";
import { openPipeline } from "../src/pipeline/pipeline.js";
import { layoutScope, type TrainableLayout } from "../src/pipeline/trainable.js";
import { Runtime } from "../src/runtime/runtime.js";
import { float32, fromNumbers, type HostTensor, toFloat32 } from "../src/tensor/host.js";
import { sizeOf } from "../src/tensor/shape.js";
import { openTrainable } from "../src/train/open-trainable.js";
import { readLora } from "../src/weights/read-adapter.js";
import { expectParity, openGolden } from "./golden.js";
import { TINY_SD, tinySettings } from "./tiny.js";

const golden = await openGolden("adapters");
const pipeline = await openPipeline(TINY_SD);
const runtime = await Runtime.start({ threads: 1 });
afterAll(() => runtime.close());

const { sample, timestep, encoderHiddenStates } = unetInputs(pipeline.unet, {
  batch: 2,
  height: 8,
  width: 8,
  tokens: 5,
});

function build(layout: TrainableLayout) {
  const parameters = input([layout.size]);
  const { scope, parts } = layoutScope(layout, parameters, pipeline.weights);
  return { parameters, parts, output: unet(scope, pipeline.unet, { sample, timestep, encoderHiddenStates }) };
}

for (const name of ["diffusers", "peft", "state-dict", "kohya", "processors"]) {
  const everywhere = name === "diffusers";
  test(`an adapter in the format of ${name} gives the same output${everywhere ? ", and its factors have PEFT's gradients" : ""}`, async () => {
    const { layout, weights } = toFlat(pipeline, await readLora(`${golden.folder}/${name}`));
    const { parameters, parts, output } = build(layout);
    const factors = layout.entries.map((entry, i) => [entry.name, parts[i] as Value] as const);
    await expectParity(runtime, golden, {
      inputs: { sample, timestep, encoder_hidden_states: encoderHiddenStates, parameters },
      outputs: { sample: output },
      wrt: everywhere ? Object.fromEntries(factors) : {},
      weights: pipeline.weights,
      results: `${name}.`,
      given: { parameters: float32(weights, [layout.size]) },
    });
    if (everywhere) {
      expect(golden.names(`${name}.gradient.`).sort()).toEqual(layout.entries.map((entry) => entry.name).sort());
    }
  });
}

test("every weight of a U-Net that is trained as a whole has PyTorch's gradient", async () => {
  const { layout, initial } = await openTrainable(tinySettings({ trainable: "unet" }), pipeline);
  const { parameters, parts, output } = build(layout);
  const upstream = input(output.shape);
  const gradient = joinFlat(layout, gradients([{ value: output, gradient: upstream }], parts));
  const program = await runtime.compile({
    name: "whole",
    inputs: { sample, timestep, encoderHiddenStates, parameters, upstream },
    outputs: { gradient },
  });
  const given = (key: string) => golden.tensor(key);
  const weights = await initial();
  const result = await program.run({
    sample: given("input.sample"),
    timestep: fromNumbers(Array.from(given("input.timestep").data, Number), [2]),
    encoderHiddenStates: given("input.encoder_hidden_states"),
    parameters: float32(weights, [layout.size]),
    upstream: given("upstream.sample"),
  });
  await program.release();
  const found = toFloat32(result.gradient as HostTensor);

  const expected: Record<string, [norm: number, dot: number]> = JSON.parse(
    await readFile(`${golden.folder}/every-weight.json`, "utf8"),
  );
  expect(layout.entries.map(({ name }) => name).sort()).toEqual(
    Object.keys(expected)
      .map((key) => `unet.${key}`)
      .sort(),
  );
  const largest = Math.max(...Object.values(expected).map(([norm]) => norm));
  for (const { name, shape, offset } of layout.entries) {
    const [norm, dot] = expected[name.slice("unet.".length)] as [number, number];
    const own = found.subarray(offset, offset + sizeOf(shape));
    const weight = weights.subarray(offset, offset + sizeOf(shape));
    const product = own.reduce((sum, g, i) => sum + g * (weight[i] as number), 0);
    // The gradient of a bias before a normalization is only rounding error, so it is compared with the largest gradient.
    const tolerance = 1e-4 * Math.max(norm, 1e-3 * largest);
    expect(Math.abs(Math.hypot(...own) - norm), `${name}: norm`).toBeLessThan(tolerance);
    expect(Math.abs(product - dot), `${name}: dot product with the weight`).toBeLessThan(
      tolerance * Math.hypot(...weight, 1),
    );
  }
});
