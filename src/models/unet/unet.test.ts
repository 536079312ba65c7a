import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inputError } from "../../../test/errors.js";
import { expectParity, openGolden, relativeError } from "../../../test/golden.js";
import { MODEL_TOLERANCE, roundingTolerance } from "../../../test/tolerance.js";
import { gradients } from "../../autodiff/index.js";
import type { Graph } from "../../graph/graph.js";
import type { Value } from "../../graph/value.js";
import { loraAdapter, loraLayout } from "../../nn/lora.js";
import { frozenScope, type Scope, survey } from "../../nn/scope.js";
import { halfPrecision } from "../../onnx/half-precision.js";
import { concat, input, silu, slice } from "../../ops/index.js";
import { Runtime } from "../../runtime/runtime.js";
import { float32, fromNumbers, type HostTensor, toFloat32, toNumbers } from "../../tensor/host.js";
import { openWeights } from "../../weights/folder.js";
import { openSafetensors } from "../../weights/safetensors.js";
import { fromTensors, readTensor, withPrefix } from "../../weights/source.js";
import { downsample, resnetBlock, upsample } from "../resnet.js";
import { parseUnetConfig } from "./config.js";
import { sinusoidalEmbedding, timeEmbedding } from "./time-embedding.js";
import { transformer2d } from "./transformer.js";
import { unet, unetInputs } from "./unet.js";

/** The keys of Stable Diffusion 1.5's unet/config.json that differ from the defaults or are essential. */
const SD15 = {
  sample_size: 64,
  block_out_channels: [320, 640, 1280, 1280],
  down_block_types: ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
  up_block_types: ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
  layers_per_block: 2,
  cross_attention_dim: 768,
  attention_head_dim: 8,
};

describe("Stable Diffusion 1.5's U-Net", () => {
  const config = parseUnetConfig(SD15);
  const inputs = unetInputs(config, { batch: 1, height: 8, width: 8, tokens: 77 });

  test("has the published number of parameters", () => {
    const { parameters } = survey("unet", (scope) => unet(scope, config, inputs));
    expect(parameters.size).toBe(859_520_964);
  });

  test("has 128 modules of 797,184 parameters to adapt at rank 4, as the paper's code trains", () => {
    const lora = { rank: 4, alpha: null, targets: ["attention"] };
    const layout = loraLayout(lora, "unet", (scope) => unet(scope, config, inputs));
    expect(layout.entries.length).toBe(2 * 128);
    expect(layout.size).toBe(797_184);
    expect(layout.entries[0]?.scale).toBe(1);
    expect(layout.entries[0]?.name).toBe(
      "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight",
    );
  });
});

/** The keys of Stable Diffusion XL's unet/config.json that differ from the defaults. */
const SDXL = {
  sample_size: 128,
  block_out_channels: [320, 640, 1280],
  down_block_types: ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
  up_block_types: ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
  cross_attention_dim: 2048,
  attention_head_dim: [5, 10, 20],
  transformer_layers_per_block: [1, 2, 10],
  use_linear_projection: true,
  addition_embed_type: "text_time",
  addition_time_embed_dim: 256,
  projection_class_embeddings_input_dim: 2816,
};

test.each([
  [
    "Stable Diffusion 2's",
    { ...SD15, cross_attention_dim: 1024, attention_head_dim: [5, 10, 20, 20], use_linear_projection: true },
    865_910_724,
    128,
  ],
  ["Stable Diffusion XL's", SDXL, 2_567_463_684, 560],
])("%s U-Net has the published number of parameters and of modules to adapt", (_, json, parameters, modules) => {
  const config = parseUnetConfig(json);
  const build = (scope: Scope) =>
    unet(scope, config, unetInputs(config, { batch: 1, height: 8, width: 8, tokens: 77 }));
  expect(survey("unet", build).parameters.size).toBe(parameters);
  const layout = loraLayout({ rank: 4, alpha: null, targets: ["attention"] }, "unet", build);
  expect(layout.entries.length).toBe(2 * modules);
});

/**
 * How much each golden amplifies rounding. SD 1.5's has a middle block whose norms see groups of few values, so small
 * errors there turn into large ones: PyTorch's float16 gradients are up to 5.9e-2 from its float32 ones as well.
 */
const AMPLIFICATION = {
  "unet-embedded": { float32: 550, float16: 14 },
  "unet-sd15": { float32: 1300, float16: 56 },
  "unet-sd2": { float32: 420, float16: 14 },
} as const;

const inFloat16 = (graph: Graph) => halfPrecision(graph, { exact: ["input.timestep"] });

describe("against diffusers", () => {
  let runtime: Runtime;
  beforeAll(async () => {
    runtime = await Runtime.start({ threads: 1 });
  });
  afterAll(() => runtime.close());

  for (const name of ["unet-embedded", "unet-sd15", "unet-sd2"] as const) {
    const tolerance = (precision: "float32" | "float16") =>
      roundingTolerance(precision, AMPLIFICATION[name][precision]);

    test(`${name}: all parameters have the file's names and shapes`, async () => {
      const golden = await openGolden(name);
      const file = withPrefix(await openWeights(golden.folder), "unet.");
      const config = parseUnetConfig(golden.config);
      const inputs = unetInputs(config, { batch: 1, height: 16, width: 16, tokens: 5 });
      const { parameters } = survey("unet", (scope) => unet(scope, config, inputs));
      expect(parameters.entries.map((entry) => [entry.name, entry.shape]).sort()).toEqual(
        [...file.names()].map((key) => [key, file.get(key)?.shape]).sort(),
      );
    });

    test.each([
      { precision: "float32", tolerance: tolerance("float32"), rework: (graph: Graph) => graph },
      { precision: "float16", tolerance: tolerance("float16"), rework: inFloat16 },
    ])(`${name}: output and gradients by inputs and weights agree in $precision`, async (compared) => {
      const golden = await openGolden(name);
      const config = parseUnetConfig(golden.config);
      const weights = withPrefix(await openWeights(golden.folder), "unet.");
      const scope = frozenScope(weights, "unet");
      const [batch, , height, width] = golden.tensor("input.sample").shape as [number, number, number, number];
      const inputs = unetInputs(config, { batch, height, width, tokens: 5 });
      const sample = unet(scope, config, inputs);
      const trained = golden.names("gradient.parameter.").map((key) => {
        const shape = weights.get(`unet.${key}`)?.shape ?? [];
        return [`parameter.${key}`, scope.parameter(key, shape)] as const;
      });
      const named = {
        sample: inputs.sample,
        timestep: inputs.timestep,
        encoder_hidden_states: inputs.encoderHiddenStates,
      };
      await expectParity(runtime, golden, {
        inputs: named,
        outputs: { sample },
        wrt: {
          sample: inputs.sample,
          encoder_hidden_states: inputs.encoderHiddenStates,
          ...Object.fromEntries(trained),
        },
        weights,
        ...compared,
      });
    });

    const both = name === "unet-embedded" ? [false, true] : [false];
    test.each(both)(`${name}: output and gradients with an adapter agree (from residuals: %s)`, async (split) => {
      const golden = await openGolden(name);
      const config = parseUnetConfig(golden.config);
      const weights = withPrefix(await openWeights(golden.folder), "unet.");
      const [batch, , height, width] = golden.tensor("input.sample").shape as [number, number, number, number];
      const inputs = unetInputs(config, { batch, height, width, tokens: 5 });
      const settings = { rank: 2, alpha: 2, targets: ["attention"] };
      const layout = loraLayout(settings, "unet", (scope) => unet(scope, config, inputs));
      const flat = input([layout.size]);
      const { adapter, parts } = loraAdapter(layout, flat);
      const sample = unet(frozenScope(weights, "unet", { adapter }), config, inputs);

      const file = await openSafetensors(`${golden.folder}/lora/pytorch_lora_weights.safetensors`);
      const factors = new Float32Array(layout.size);
      for (const { name: key, shape, offset } of layout.entries) {
        const stored = file.get(key);
        expect(stored?.shape).toEqual(shape);
        if (stored) factors.set(toFloat32(await readTensor(stored)), offset);
      }
      await expectParity(runtime, golden, {
        split,
        inputs: {
          sample: inputs.sample,
          timestep: inputs.timestep,
          encoder_hidden_states: inputs.encoderHiddenStates,
          lora: flat,
        },
        outputs: { sample },
        wrt: {
          sample: inputs.sample,
          encoder_hidden_states: inputs.encoderHiddenStates,
          ...Object.fromEntries(layout.entries.map((entry, i) => [entry.name, parts[i] as Value])),
        },
        weights,
        results: "lora.",
        given: { lora: float32(factors, [layout.size]) },
        tolerance: tolerance("float32"),
      });
    });
  }

  const resnet = { groups: 4, epsilon: 1e-5, activation: "silu" } as const;
  const blocks: Record<string, (scope: Scope, x: Record<string, Value>) => Value> = {
    time_embedding: (scope, x) => timeEmbedding(scope, x.sample as Value, 32),
    // diffusers activates the time embedding in each block. Here the input is already activated.
    "down_blocks.0.resnets.0": (scope, x) =>
      resnetBlock(scope, x.hidden_states as Value, 8, { ...resnet, time: silu(x.temb as Value) }),
    "down_blocks.1.resnets.0": (scope, x) =>
      resnetBlock(scope, x.hidden_states as Value, 16, { ...resnet, time: silu(x.temb as Value) }),
    "down_blocks.0.downsamplers.0": (scope, x) => downsample(scope, x.hidden_states as Value, 1),
    "down_blocks.1.attentions.0": (scope, x) =>
      transformer2d(scope, x.hidden_states as Value, x.encoder_hidden_states as Value, {
        heads: 2,
        layers: 1,
        groups: 4,
        useLinearProjection: false,
      }),
    "up_blocks.0.upsamplers.0": (scope, x) => upsample(scope, x.hidden_states as Value),
  };
  for (const [path, build] of Object.entries(blocks)) {
    test(`the block ${path} alone agrees`, async () => {
      const golden = await openGolden("unet-embedded");
      const weights = withPrefix(await openWeights(golden.folder), "unet.");
      const at = `block.${path}.`;
      const inputs = Object.fromEntries(
        golden.names(`${at}input.`).map((key) => [key, input(golden.tensor(`${at}input.${key}`).shape)]),
      );
      const output = build(frozenScope(weights, `unet.${path}`), inputs);
      await expectParity(runtime, golden, { inputs, outputs: { hidden_states: output }, wrt: inputs, weights, at });
    });
  }

  test("the sines and cosines of a timestep agree", async () => {
    const golden = await openGolden("unet-embedded");
    const timestep = input([2]);
    const embedding = sinusoidalEmbedding(timestep, 8, { flipSinToCos: true, freqShift: 0 });
    const program = await runtime.compile({ name: "time_proj", inputs: { timestep }, outputs: { embedding } });
    const { data } = golden.tensor("block.time_proj.input.timesteps");
    const result = await program.run({ timestep: fromNumbers(Array.from(data, Number), [2]) });
    await program.release();
    const expected = golden.tensor("block.time_proj.output");
    expect(relativeError(result.embedding as HostTensor, expected)).toBeLessThan(MODEL_TOLERANCE);
  });

  test("weights stored as float16 give the same prediction up to rounding", async () => {
    const golden = await openGolden("unet-embedded");
    const config = parseUnetConfig(golden.config);
    const file = withPrefix(await openWeights(golden.folder), "unet.");
    const rounded = new Map<string, HostTensor>();
    for (const key of file.names()) {
      const stored = file.get(key);
      if (stored) rounded.set(key, fromNumbers(toNumbers(await readTensor(stored)), stored.shape, "float16"));
    }
    const weights = fromTensors(rounded);
    const { sample, timestep, encoderHiddenStates } = unetInputs(config, { batch: 2, height: 8, width: 8, tokens: 5 });
    await expectParity(runtime, golden, {
      inputs: { sample, timestep, encoder_hidden_states: encoderHiddenStates },
      outputs: { sample: unet(frozenScope(weights, "unet"), config, { sample, timestep, encoderHiddenStates }) },
      wrt: { sample },
      weights,
      tolerance: roundingTolerance("float16", 5),
    });
  });

  test("one timestep for the whole batch is the same as one for each sample", async () => {
    const golden = await openGolden("unet-sd15");
    const config = parseUnetConfig(golden.config);
    const weights = withPrefix(await openWeights(golden.folder), "unet.");
    const shared = unetInputs(config, { batch: 2, height: 16, width: 16, tokens: 5, timesteps: 1 });
    await expectParity(runtime, golden, {
      inputs: {
        sample: shared.sample,
        timestep: shared.timestep,
        encoder_hidden_states: shared.encoderHiddenStates,
      },
      outputs: { sample: unet(frozenScope(weights, "unet"), config, shared) },
      wrt: { sample: shared.sample },
      weights,
      given: { timestep: fromNumbers([981], [1]) },
    });
  });

  test.each(["unet-embedded", "unet-sd15"])(
    "%s: two prompts with shared latents give the same output and gradient as repeated latents",
    async (name) => {
      const golden = await openGolden(name);
      const config = parseUnetConfig(golden.config);
      const weights = withPrefix(await openWeights(golden.folder), "unet.");
      const [batch, , height, width] = golden.tensor("input.sample").shape as [number, number, number, number];
      const inputs = unetInputs(config, { batch, height, width, tokens: 5, timesteps: 1 });
      const { sample, timestep, encoderHiddenStates } = inputs;
      const shared = slice(sample, 0, [0, 1]);
      const predict = (latents: Value) =>
        unet(frozenScope(weights, "unet"), config, { sample: latents, timestep, encoderHiddenStates });
      const outputs = Object.fromEntries(
        [predict(shared), predict(concat([shared, shared], 0))].flatMap((output, i) => {
          const [gradient] = gradients([{ value: output, gradient: output }], [sample]);
          return [[`output${i}`, output] as const, [`gradient${i}`, gradient as Value] as const];
        }),
      );
      const program = await runtime.compile(
        { name, inputs: { sample, timestep, encoderHiddenStates }, outputs },
        weights,
      );
      const found = await program.run({
        sample: golden.tensor("input.sample"),
        timestep: fromNumbers([981], [1]),
        encoderHiddenStates: golden.tensor("input.encoder_hidden_states"),
      });
      for (const kind of ["output", "gradient"]) {
        const [once, twice] = [0, 1].map((i) => found[`${kind}${i}`] as HostTensor) as [HostTensor, HostTensor];
        expect(relativeError(once, twice)).toBeLessThan(roundingTolerance("float32", 80));
      }
    },
  );
});

describe("a U-Net config", () => {
  const parse = (json: unknown) => () => parseUnetConfig(json);
  const path = "unet/config.json";
  /** A config with one invalid key. `expected` is a part of what the key may hold. */
  const invalid = (key: string, found: string, expected: string) =>
    inputError("config-invalid", {
      path,
      count: 1,
      keys: [key],
      found: [found],
      expected: [expect.stringContaining(expected)],
    });

  test("with an unknown block is refused with the key, the file and the supported blocks", () => {
    const config = { ...SD15, down_block_types: ["CrossAttnDownBlock2d", ...SD15.down_block_types.slice(1)] };
    expect(() => parseUnetConfig(config, "m/unet/config.json")).toThrow(
      inputError("config-invalid", {
        path: "m/unet/config.json",
        keys: ["down_block_types[0]"],
        found: ['"CrossAttnDownBlock2d"'],
        expected: ["DownBlock2D, CrossAttnDownBlock2D"],
        suggestion: "CrossAttnDownBlock2D",
      }),
    );
  });

  test("with an unsupported option is refused", () => {
    expect(parse({ ...SD15, class_embed_type: "timestep" })).toThrow(invalid("class_embed_type", '"timestep"', "null"));
    expect(parse({ ...SD15, addition_embed_type: "text_image" })).toThrow(
      invalid("addition_embed_type", '"text_image"', "text_time"),
    );
    expect(parse({ ...SD15, dual_cross_attention: true })).toThrow(invalid("dual_cross_attention", "true", "false"));
    expect(parse({ ...SD15, time_cond_proj_dim: 256 })).toThrow(invalid("time_cond_proj_dim", "256", "null"));
    expect(parse({ ...SD15, mid_block_type: "UNetMidBlock2DSimpleCrossAttn" })).toThrow(
      invalid("mid_block_type", '"UNetMidBlock2DSimpleCrossAttn"', "UNetMidBlock2DCrossAttn, UNetMidBlock2D"),
    );
    expect(parse({ ...SD15, conv_in_kernel: 4 })).toThrow(invalid("conv_in_kernel", "4", "odd"));
  });

  test("with an addition requires its sizes", () => {
    const without = (key: string) => ({ ...SDXL, [key]: null });
    for (const key of ["addition_time_embed_dim", "projection_class_embeddings_input_dim"]) {
      expect(parse(without(key))).toThrow(invalid(key, "null", "text_time"));
    }
    expect(parse({ ...SDXL, projection_class_embeddings_input_dim: 1536 })).toThrow(
      invalid("projection_class_embeddings_input_dim", "1536", "6 sizes of 256 features"),
    );
    expect(parseUnetConfig(SDXL).addition).toEqual({ pooledFeatures: 1280, timeFeatures: 256 });
  });

  test("may list transformer layers by level and by ResNet block, separately for the up blocks", () => {
    const config = {
      ...SDXL,
      transformer_layers_per_block: [0, [2, 1], 4],
      reverse_transformer_layers_per_block: [[4, 4, 10], [2, 1, 1], 0],
    };
    expect(parseUnetConfig(config).levels.map(({ transformerLayers }) => transformerLayers)).toEqual([
      { down: [0, 0], up: [0, 0, 0] },
      { down: [2, 1], up: [2, 1, 1] },
      { down: [4, 4], up: [4, 4, 10] },
    ]);
    expect(parse({ ...config, reverse_transformer_layers_per_block: null })).toThrow(
      invalid("reverse_transformer_layers_per_block", "null", "transformer_layers_per_block"),
    );
    expect(parse({ ...config, transformer_layers_per_block: [0, [2, 1, 1], 4] })).toThrow(
      invalid("transformer_layers_per_block", "[0,[2,1,1],4]", "entry 1 has 3 numbers, but the level has 2"),
    );
  });

  test("whose levels attend to prompts of different widths is refused", () => {
    expect(parse({ ...SD15, cross_attention_dim: [768, 768, 1024, 1024] })).toThrow(
      invalid("cross_attention_dim", "[768,768,1024,1024]", "768, 768, 1024, 1024"),
    );
  });

  test("whose lists do not fit its levels is refused", () => {
    expect(parse({ ...SD15, attention_head_dim: [5, 10] })).toThrow(
      invalid("attention_head_dim", "[5,10]", "2 entries, but block_out_channels has 4 levels"),
    );
  });

  test("whose groups or heads do not divide its channels is refused", () => {
    const undivided = (key: string, expected: string) =>
      inputError("config-invalid", {
        path,
        keys: expect.arrayContaining([key]),
        expected: expect.arrayContaining([expect.stringContaining(expected)]),
      });
    expect(parse({ ...SD15, norm_num_groups: 48 })).toThrow(
      undivided("norm_num_groups", "48 groups do not divide 320 channels"),
    );
    expect(parse({ ...SD15, attention_head_dim: 7 })).toThrow(
      undivided("attention_head_dim", "7 heads do not divide 320 channels"),
    );
  });

  test("with absurd sizes is refused before anything is built", () => {
    expect(parse({ ...SD15, layers_per_block: 1e9 })).toThrow(invalid("layers_per_block", "1000000000", "1000"));
    expect(parse({ ...SD15, layers_per_block: "two" })).toThrow(
      invalid("layers_per_block", '"two"', "a whole number from 1 to 1000, or a list"),
    );
    expect(parse({ ...SD15, block_out_channels: [320, 640, 1280, 2 ** 30] })).toThrow(
      invalid("block_out_channels[3]", "1073741824", "1048576"),
    );
  });

  test("may have a number of heads that does not divide a level without attention", () => {
    const config = { ...SD15, block_out_channels: [320, 640, 1280, 1280], attention_head_dim: [7, 8, 8, 8] };
    const down = ["DownBlock2D", ...SD15.down_block_types.slice(1)];
    const up = [...SD15.up_block_types.slice(0, 3), "UpBlock2D"];
    expect(parseUnetConfig({ ...config, down_block_types: down, up_block_types: up }).levels[0]?.heads).toBe(7);
    expect(parse(config)).toThrow(invalid("attention_head_dim", "[7,8,8,8]", "7 heads do not divide 320 channels"));
  });
});

test("Stable Diffusion XL's U-Net without a pooled prompt, or with one of another width, is refused", () => {
  const config = parseUnetConfig(SDXL);
  const { added, ...inputs } = unetInputs(config, { batch: 1, height: 4, width: 4, tokens: 77 });
  const build = (given: Parameters<typeof unet>[2]) => () => survey("unet", (scope) => unet(scope, config, given));
  expect(build(inputs)).toThrow("needs added conditions");
  const narrow = { textEmbeds: input([1, 768]), timeIds: input([1, 6]) };
  expect(build({ ...inputs, added: narrow })).toThrow("textEmbeds [1, 768] must be [1, 1280]");
  expect(build({ ...inputs, added })).not.toThrow();
});

test("a sample whose sides do not halve at every level is refused", () => {
  const config = parseUnetConfig(SD15);
  const inputs = unetInputs(config, { batch: 1, height: 12, width: 16, tokens: 77 });
  expect(() => survey("unet", (scope) => unet(scope, config, inputs))).toThrow("multiples of 8");
});
