import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inputError } from "../../../test/errors.js";
import { expectParity, openGolden } from "../../../test/golden.js";
import { frozenScope, survey } from "../../nn/scope.js";
import { add, clip, exp, input, matmul, mul } from "../../ops/index.js";
import { Runtime } from "../../runtime/runtime.js";
import { toNumbers } from "../../tensor/host.js";
import { openWeights } from "../../weights/folder.js";
import { type WeightSource, withPrefix } from "../../weights/source.js";
import { imageEmbedding, logitScale, normalize, textEmbedding } from "./clip.js";
import { parseClipConfig, parseClipTextConfig } from "./config.js";
import { clipPixels, parseNormalization } from "./preprocess.js";
import { clipText, clipTextStates, endOfText, pooledText, projectedText } from "./text.js";

function shapesOf(source: WeightSource) {
  return [...source.names()].map((name) => [name, source.get(name)?.shape]).sort();
}

test("Stable Diffusion 1.5's text encoder has the published number of parameters", () => {
  const config = parseClipTextConfig({ hidden_size: 768, intermediate_size: 3072, num_attention_heads: 12 });
  const { parameters } = survey("text_encoder", (scope) => clipText(scope, config, input([1, 77], "int64")));
  expect(parameters.size).toBe(123_060_480);
});

test("OpenCLIP's text encoders in Stable Diffusion 2 and XL have the published number of parameters", () => {
  const ids = input([1, 77], "int64");
  const shape = { hidden_act: "gelu", vocab_size: 49408, max_position_embeddings: 77 };
  const second = parseClipTextConfig({
    ...shape,
    hidden_size: 1024,
    intermediate_size: 4096,
    num_attention_heads: 16,
    num_hidden_layers: 23,
  });
  expect(survey("text_encoder", (scope) => clipText(scope, second, ids)).parameters.size).toBe(340_387_840);
  const xl = parseClipTextConfig({
    ...shape,
    hidden_size: 1280,
    intermediate_size: 5120,
    num_attention_heads: 20,
    num_hidden_layers: 32,
    projection_dim: 1280,
  });
  const { parameters } = survey("text_encoder_2", (scope) =>
    projectedText(scope, xl, clipTextStates(scope, xl, ids).last, input([1, 77])),
  );
  expect(parameters.size).toBe(694_659_840);
});

test("CLIP ViT-L/14 has the published number of parameters", () => {
  const config = parseClipConfig({
    projection_dim: 768,
    text_config: { hidden_size: 768, intermediate_size: 3072, num_attention_heads: 12 },
    vision_config: {
      hidden_size: 1024,
      intermediate_size: 4096,
      num_attention_heads: 16,
      num_hidden_layers: 24,
      patch_size: 14,
    },
  });
  const { parameters } = survey("clip", (scope) => {
    imageEmbedding(scope, config, input([1, 3, 224, 224]));
    textEmbedding(scope, config, input([1, 77], "int64"), input([1, 77]));
    logitScale(scope);
  });
  expect(parameters.size).toBe(427_616_513);
});

describe("the end of a text", () => {
  const config = parseClipTextConfig({});
  test("is the first end-of-text token", () => {
    const ids = [[7, 3, 9, 3, 3]];
    expect([...toNumbers(endOfText(ids, { ...config, eosTokenId: 3 }))]).toEqual([0, 1, 0, 0, 0]);
  });

  test("is the greatest token if the config has the wrong id 2 of old files", () => {
    const ids = [[7, 3, 9, 9, 9]];
    expect([...toNumbers(endOfText(ids, { ...config, eosTokenId: 2 }))]).toEqual([0, 0, 1, 0, 0]);
  });
});

describe("against transformers", () => {
  let runtime: Runtime;
  beforeAll(async () => {
    runtime = await Runtime.start({ threads: 1 });
  });
  afterAll(() => runtime.close());

  for (const name of ["clip-text-quick-gelu", "clip-text-gelu"]) {
    test(`${name}: hidden states, pooled state and gradients agree to 1e-4`, async () => {
      const golden = await openGolden(name);
      const config = parseClipTextConfig(golden.config);
      const weights = withPrefix(await openWeights(golden.folder), "text_encoder.");
      const scope = frozenScope(weights, "text_encoder");
      const ids = input([2, 7], "int64");
      const ends = input([2, 7]);
      const hidden = clipText(scope, config, ids);
      const trained = golden
        .names("gradient.parameter.")
        .map((key) => [`parameter.${key}`, scope.parameter(key, weights.get(`text_encoder.${key}`)?.shape ?? [])]);
      await expectParity(runtime, golden, {
        inputs: { input_ids: ids, ends },
        outputs: { last_hidden_state: hidden, pooled: pooledText(hidden, ends) },
        wrt: Object.fromEntries(trained),
        weights,
        given: { ends: endOfText(rows(toNumbers(golden.tensor("input.input_ids")), 7), config) },
      });
    });
  }

  for (const name of ["clip-quick-gelu", "clip-gelu"]) {
    test(`${name}: embeddings, logits and gradients agree to 1e-4`, async () => {
      const golden = await openGolden(name);
      const config = parseClipConfig(golden.config);
      const weights = withPrefix(await openWeights(golden.folder), "clip.");
      const scope = frozenScope(weights, "clip");
      const ids = input([2, 7], "int64");
      const ends = input([2, 7]);
      const pixels = input([2, 3, 12, 12]);
      const imageFeatures = imageEmbedding(scope, config, pixels);
      const textFeatures = textEmbedding(scope, config, ids, ends);
      const [imageEmbeds, textEmbeds] = [normalize(imageFeatures), normalize(textFeatures)];
      const logits = mul(exp(logitScale(scope)), matmul(imageEmbeds, textEmbeds, { transposeB: true }));
      const trained = golden
        .names("gradient.parameter.")
        .map((key) => [`parameter.${key}`, scope.parameter(key, weights.get(`clip.${key}`)?.shape ?? [])]);
      await expectParity(runtime, golden, {
        inputs: { input_ids: ids, ends, pixel_values: pixels },
        outputs: {
          image_features: imageFeatures,
          text_features: textFeatures,
          image_embeds: imageEmbeds,
          text_embeds: textEmbeds,
          logits_per_image: logits,
        },
        wrt: { pixel_values: pixels, ...Object.fromEntries(trained) },
        weights,
        given: { ends: endOfText(rows(toNumbers(golden.tensor("input.input_ids")), 7), config.text) },
      });
    });

    test(`${name}: all parameters have the file's names and shapes`, async () => {
      const golden = await openGolden(name);
      const config = parseClipConfig(golden.config);
      const { parameters } = survey("clip", (scope) => {
        imageEmbedding(scope, config, input([2, 3, 12, 12]));
        textEmbedding(scope, config, input([2, 7], "int64"), input([2, 7]));
        logitScale(scope);
      });
      expect(parameters.entries.map((entry) => [entry.name, entry.shape]).sort()).toEqual(
        shapesOf(withPrefix(await openWeights(golden.folder), "clip.")),
      );
    });
  }

  test("a decoded image, clamped, resized and normalized as in the reference trainer, agrees to 1e-4", async () => {
    const golden = await openGolden("image");
    const image = input([2, 3, 16, 16]);
    const pixels = clipPixels(clip(add(mul(image, 0.5), 0.5), 0, 1), 12);
    const options = { inputs: { image }, outputs: { pixel_values: pixels }, wrt: { image } };
    await expectParity(runtime, golden, { ...options, at: "preprocess." });
  });
});

test("an image of the tower's size is not resized", () => {
  const pixels = clipPixels(input([1, 3, 8, 8]), 8, parseNormalization({}));
  expect(pixels.node.inputs[0]?.node.op.name).toBe("sub");
  expect(pixels.node.inputs[0]?.node.inputs[0]?.node.op.name).toBe("input");
});

test("a CLIP config whose patches do not tile the image is refused", () => {
  expect(() => parseClipConfig({ vision_config: { image_size: 30, patch_size: 8 } }, "clip/config.json")).toThrow(
    inputError("config-invalid", {
      path: "clip/config.json",
      keys: ["vision_config.patch_size"],
      found: ["8"],
      expected: [expect.stringContaining("image_size 30")],
    }),
  );
});

test("a CLIP config with an unknown activation is refused with the nearest known one", () => {
  expect(() => parseClipTextConfig({ hidden_act: "quick_gelo" })).toThrow(
    inputError("config-invalid", { keys: ["hidden_act"], found: ['"quick_gelo"'], suggestion: "quick_gelu" }),
  );
});

test("a text longer than the positions is refused", () => {
  const config = parseClipTextConfig({ max_position_embeddings: 8 });
  expect(() => survey("t", (scope) => clipText(scope, config, input([1, 9], "int64")))).toThrow(
    /9 tokens.*8 positions/,
  );
});

function rows(values: Float64Array, length: number): number[][] {
  return Array.from({ length: values.length / length }, (_, i) => [...values.subarray(i * length, (i + 1) * length)]);
}
