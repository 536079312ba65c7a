import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inputError } from "../../../test/errors.js";
import { expectParity, openGolden } from "../../../test/golden.js";
import { frozenScope, type Scope, survey } from "../../nn/scope.js";
import { input } from "../../ops/index.js";
import { Runtime } from "../../runtime/runtime.js";
import { openWeights } from "../../weights/folder.js";
import { type WeightSource, withPrefix } from "../../weights/source.js";
import { parseVaeConfig, type VaeConfig, vaeFactor } from "./config.js";
import { decode, encode } from "./vae.js";

/** Stable Diffusion 1.5's vae/config.json. */
const SD15 = {
  block_out_channels: [128, 256, 512, 512],
  down_block_types: Array(4).fill("DownEncoderBlock2D"),
  up_block_types: Array(4).fill("UpDecoderBlock2D"),
  layers_per_block: 2,
  sample_size: 512,
};

const buildBoth = (config: VaeConfig) => (scope: Scope) => {
  const side = 2 * vaeFactor(config);
  encode(scope, config, input([1, config.inChannels, side, side]));
  decode(scope, config, input([1, config.latentChannels, 2, 2]));
};

test("Stable Diffusion 1.5's autoencoder has the published number of parameters", () => {
  expect(survey("vae", buildBoth(parseVaeConfig(SD15))).parameters.size).toBe(83_653_863);
});

test("an autoencoder without attention in the mid block lacks only those parameters", () => {
  const names = (json: object) =>
    survey("vae", buildBoth(parseVaeConfig(json))).parameters.entries.map((entry) => entry.name);
  const without = names({ ...SD15, mid_block_add_attention: false });
  expect(without).toEqual(names(SD15).filter((name) => !name.includes("mid_block.attentions")));
});

describe("against diffusers", () => {
  let runtime: Runtime;
  beforeAll(async () => {
    runtime = await Runtime.start({ threads: 1 });
  });
  afterAll(() => runtime.close());

  async function open() {
    const golden = await openGolden("vae");
    const weights = withPrefix(await openWeights(golden.folder), "vae.");
    const scope = frozenScope(weights, "vae");
    const trained = (...keys: string[]) =>
      Object.fromEntries(
        keys.map((key) => [`parameter.${key}`, scope.parameter(key, weights.get(`vae.${key}`)?.shape ?? [])]),
      );
    return { golden, weights, scope, trained, config: parseVaeConfig(golden.config) };
  }

  test("all parameters have the file's names and shapes", async () => {
    const { weights, config } = await open();
    const { parameters } = survey("vae", buildBoth(config));
    expect(parameters.entries.map((entry) => [entry.name, entry.shape]).sort()).toEqual(
      [...weights.names()].map((key) => [key, weights.get(key)?.shape]).sort(),
    );
  });

  test("the encoder's mean, log variance and gradients agree to 1e-4", async () => {
    const { golden, weights, scope, config, trained } = await open();
    const image = input([2, 3, 16, 16]);
    await expectParity(runtime, golden, {
      inputs: { image },
      outputs: { ...encode(scope, config, image) },
      wrt: { image, ...trained("encoder.down_blocks.0.downsamplers.0.conv.weight", "quant_conv.weight") },
      weights,
    });
  });

  test("the decoder's image and gradients agree to 1e-4", async () => {
    const { golden, weights, scope, config, trained } = await open();
    const latents = input([2, 4, 4, 4]);
    await expectParity(runtime, golden, {
      inputs: { latents },
      outputs: { decoded: decode(scope, config, latents) },
      wrt: { latents, ...trained("post_quant_conv.weight", "decoder.mid_block.attentions.0.to_q.weight") },
      weights,
    });
  });

  test("attention with the names of old checkpoints gives the same image", async () => {
    const { golden, weights, config } = await open();
    const renamed: WeightSource = renameAttention(weights);
    const latents = input([2, 4, 4, 4]);
    await expectParity(runtime, golden, {
      inputs: { latents },
      outputs: { decoded: decode(frozenScope(renamed, "vae"), config, latents) },
      wrt: { latents },
      weights: renamed,
    });
  });
});

/** Renames to_q to query and so on: the names in diffusers before 0.15. */
function renameAttention(source: WeightSource): WeightSource {
  const pairs = { query: "to_q", key: "to_k", value: "to_v", proj_attn: "to_out.0" };
  const replace = (name: string, from: string, to: string) =>
    name.includes("attentions") ? name.replace(`.${from}.`, `.${to}.`) : name;
  const toNew = (name: string) => Object.entries(pairs).reduce((at, [o, n]) => replace(at, o, n), name);
  const toOld = (name: string) => Object.entries(pairs).reduce((at, [o, n]) => replace(at, n, o), name);
  return {
    describe: source.describe,
    names: () => [...source.names()].map(toOld),
    get: (name) => (toNew(name) === name && toOld(name) !== name ? undefined : source.get(toNew(name))),
  };
}

describe("an autoencoder's config", () => {
  const invalid = (key: string, found: string, expected: string) =>
    inputError("config-invalid", { path: "vae/config.json", keys: [key], found: [found], expected: [expected] });

  test("with an unsupported block is refused with the key and the supported block", () => {
    const supported = "DownEncoderBlock2D";
    const config = { ...SD15, down_block_types: [supported, "AttnDownEncoderBlock2D", supported, supported] };
    expect(() => parseVaeConfig(config)).toThrow(invalid("down_block_types[1]", '"AttnDownEncoderBlock2D"', supported));
  });

  test("with shifted latents or other than RGB images is refused", () => {
    expect(() => parseVaeConfig({ ...SD15, shift_factor: 0.1159 })).toThrow(invalid("shift_factor", "0.1159", "null"));
    expect(() => parseVaeConfig({ ...SD15, out_channels: 4 })).toThrow(invalid("out_channels", "4", "3"));
  });
});
