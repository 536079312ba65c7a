/** DoRA, LoHa, LoKr and LoCon that PEFT and LyCORIS write (parity/adapter_variants.py), on the tiny model's U-Net. */
import { afterAll, expect, test } from "vitest";
import { unet, unetInputs } from "../src/models/unet/unet.js";
import { frozenScope } from "../src/nn/scope.js";
import { input } from "../src/ops/index.js";
import { applyAdapter } from "../src/pipeline/apply-adapter.js";
import { generate, generateEach } from "../src/pipeline/generate.js";
import { addAdapters } from "../src/pipeline/mix.js";
import { openPipeline } from "../src/pipeline/pipeline.js";
import { layoutScope } from "../src/pipeline/trainable.js";
import { Runtime } from "../src/runtime/runtime.js";
import { float32 } from "../src/tensor/host.js";
import { loraScale } from "../src/weights/lora-files.js";
import { readAdapter, readLora } from "../src/weights/read-adapter.js";
import { inputError } from "./errors.js";
import { expectParity, openGolden } from "./golden.js";
import { TINY_SD, tinySettings } from "./tiny.js";

const golden = await openGolden("adapter-variants");
const model = await openPipeline(TINY_SD);
const runtime = await Runtime.start({ threads: 1 });
afterAll(() => runtime.close());

const { sample, timestep, encoderHiddenStates } = unetInputs(model.unet, { batch: 1, height: 8, width: 8, tokens: 5 });

const PEFT = ["peft-dora", "peft-loha", "peft-lokr"];
const LYCORIS = ["loha", "loha-tucker", "lokr", "lokr-whole", "locon", "dora", "dora-in"].map(
  (name) => `lycoris-${name}`,
);
const IS_DORA = /dora|loha-tucker/;

test.each([...PEFT, ...LYCORIS])("an adapter of %s gives the same output", async (name) => {
  const { pipeline, lora } = await applyAdapter(model, await readAdapter(`${golden.folder}/${name}`));
  if (IS_DORA.test(name)) expect(lora).toBeUndefined();
  const parameters = input([lora?.layout.size ?? 1]);
  const scope = lora
    ? layoutScope(lora.layout, parameters, pipeline.weights).scope
    : frozenScope(pipeline.weights, "unet");
  await expectParity(runtime, golden, {
    inputs: { sample, timestep, encoder_hidden_states: encoderHiddenStates, ...(lora && { parameters }) },
    outputs: { sample: unet(scope, model.unet, { sample, timestep, encoderHiddenStates }) },
    wrt: {},
    weights: pipeline.weights,
    results: `${name}.`,
    given: lora ? { parameters: float32(lora.weights, [lora.layout.size]) } : {},
  });
});

test.each([...PEFT, ...LYCORIS])(
  "%s is read as LoRA unless it is DoRA, which is refused by name there",
  async (name) => {
    const path = `${golden.folder}/${name}`;
    const read = readLora(path);
    if (IS_DORA.test(name))
      await expect(read).rejects.toThrow(inputError("adapter-unsupported", { path, found: "DoRA" }));
    else expect((await read).size).toBe(4);
  },
);

test("DoRA cannot be added to another change of the same layer", async () => {
  const [dora, loha] = [
    await readAdapter(`${golden.folder}/peft-dora`),
    await readAdapter(`${golden.folder}/peft-loha`),
  ];
  expect(() =>
    addAdapters([
      { adapter: dora, weight: 1 },
      { adapter: loha, weight: 0.5 },
    ]),
  ).toThrow(inputError("adapter-unsupported", { found: "DoRA" }));
});

test("one call generates with the model alone, with LoRA and with DoRA, as a call for each does", async () => {
  const { model, sampling, device, threads } = tinySettings();
  const settings = { model, sampling, device, threads, images: [{ prompt: "a cat", seed: 1 }] };
  const [lora, dora] = [
    await readAdapter(`${golden.folder}/../adapters/kohya`),
    await readAdapter(`${golden.folder}/peft-dora`),
  ];
  const together = await generateEach(settings, [undefined, dora, lora]);
  const alone = [
    await generate(settings),
    await generate({ ...settings, adapter: dora }),
    await generate({ ...settings, adapter: lora }),
  ];
  expect(together).toEqual(alone);
  expect(new Set(alone.map(([image]) => image?.pixels.join())).size).toBe(3);
  // Annealed guidance of power 0 uses the fine-tuned model alone.
  const [, tuned] = alone;
  expect(await generate({ ...settings, adapter: dora, anneal: 0 })).toEqual(tuned);
  expect(await generate({ ...settings, adapter: dora, anneal: 1 })).not.toEqual(tuned);
});

test("the weight of DoRA is a factor of its product, and its magnitudes stay", async () => {
  const dora = await readAdapter(`${golden.folder}/peft-dora`);
  const half = addAdapters([{ adapter: dora, weight: 0.5 }]);
  for (const [path, module] of dora) {
    const scaled = half.get(path) as typeof module;
    expect(loraScale(scaled)).toBeCloseTo(0.5 * loraScale(module), 6);
    expect(scaled.magnitude).toEqual(module.magnitude);
  }
});
