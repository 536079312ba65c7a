import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { expectParity, openGolden } from "../../test/golden.js";
import { TINY_REWARD, tinyReward } from "../../test/tiny.js";
import { interpret } from "../graph/interpret.js";
import { openBertTokenizer } from "../models/blip/tokenizer.js";
import { aestheticConfigOf, aestheticScore } from "../models/heads/aesthetic.js";
import { frozenScope } from "../nn/scope.js";
import { input } from "../ops/index.js";
import { Runtime } from "../runtime/runtime.js";
import { fromNumbers, toNumbers } from "../tensor/host.js";
import { readOpenClipModel } from "../weights/open-clip.js";
import { openPytorch } from "../weights/pytorch.js";
import { readTensor, type StoredTensor, type WeightSource, withPrefix } from "../weights/source.js";
import { checkReward } from "./check.js";

const golden = (name: string) => fileURLToPath(new URL(`../../test/goldens/${name}`, import.meta.url));

/** Rewards in the layout of their published weights. The goldens are from the libraries of their authors, on the same weights. */
const PUBLISHED = {
  "reward-hps": { name: "hps", weights: join(golden("reward-hps"), "HPS.pt") },
  "reward-pickscore": { name: "pickscore", weights: join(TINY_REWARD, "clip") },
  "reward-image-reward": {
    name: "image-reward",
    weights: join(golden("reward-image-reward"), "ImageReward.pt"),
    tokenizer: golden("reward-image-reward"),
  },
  "reward-yolos": { name: "count", detector: golden("reward-yolos"), object: ["cat", "Dog"], count: 2 },
  "reward-yolos-tiny": { name: "count", detector: golden("reward-yolos-tiny"), object: ["dog", "cat"], count: 2 },
  "reward-detr": { name: "count", detector: golden("reward-detr"), object: ["cat", "dog"], count: 2 },
  "reward-detr-timm": { name: "count", detector: golden("reward-detr-timm"), object: ["cat", "dog"], count: 2 },
  "reward-detr-dilated": { name: "count", detector: golden("reward-detr-dilated"), object: ["cat", "dog"], count: 2 },
};

describe("against the original library", () => {
  let runtime: Runtime;
  beforeAll(async () => {
    runtime = await Runtime.start({ threads: 1 });
  });
  afterAll(() => runtime.close());

  for (const [name, settings] of Object.entries(PUBLISHED)) {
    test(`${name}: reward and image gradient agree to 1e-4`, async () => {
      const expected = await openGolden(name);
      const { prompts } = JSON.parse(await readFile(join(expected.folder, "golden.json"), "utf8"));
      const reward = await tinyReward(settings);
      const image = input(expected.tensor("input.image").shape);
      const { rewards, inputs } = reward.build(image);
      await expectParity(runtime, expected, {
        inputs: { image, ...inputs },
        outputs: { rewards },
        wrt: { image },
        weights: reward.weights,
        given: reward.feeds(prompts),
      });
    });
  }
});

test.each(["reward-hps", "reward-image-reward", "reward-yolos", "reward-detr"] as const)(
  "%s has the gradient of finite differences, and scores each image independently",
  async (name) => {
    const { problems } = await checkReward(await tinyReward(PUBLISHED[name]));
    expect(problems).toEqual([]);
  },
);

test("BERT's tokenizer agrees with transformers in ids and masks, and reports truncated text", async () => {
  const folder = golden("reward-image-reward");
  const tokenizer = await openBertTokenizer(folder, 35);
  const { tokenized } = JSON.parse(await readFile(join(folder, "golden.json"), "utf8")) as {
    tokenized: { text: string; ids: number[]; mask: number[] }[];
  };
  for (const { text, ids, mask } of tokenized) {
    const encoded = tokenizer.encode(text);
    expect(encoded, text).toMatchObject({ ids, mask });
  }
  expect(tokenizer.encode("horse ".repeat(40)).truncated).toBe("horse ".repeat(7).trim());
});

describe("a CLIP in OpenCLIP's layout", () => {
  /** A source of tensors that have names and shapes but no data. */
  const shapes = (tensors: Record<string, number[]>): WeightSource => ({
    describe: "clip.pt",
    names: () => Object.keys(tensors),
    get: (name) =>
      tensors[name] && {
        kind: "file",
        dtype: "float32",
        shape: tensors[name],
        path: "/clip.pt",
        offset: 0,
        length: 4 * tensors[name].reduce((a, b) => a * b, 1),
      },
  });

  test("has the sizes of ViT-H/14 for the weights of HPSv2", () => {
    const layers = (tower: string, count: number, width: number) =>
      Object.fromEntries(
        Array.from({ length: count }, (_, i) => [`${tower}resblocks.${i}.ln_1.weight`, [width]]).concat([
          [`${tower}resblocks.0.mlp.c_fc.weight`, [4 * width, width]],
        ]),
      );
    const { config } = readOpenClipModel(
      shapes({
        "visual.conv1.weight": [1280, 3, 14, 14],
        "visual.positional_embedding": [257, 1280],
        "token_embedding.weight": [49408, 1024],
        positional_embedding: [77, 1024],
        text_projection: [1024, 1024],
        ...layers("visual.transformer.", 32, 1280),
        ...layers("transformer.", 24, 1024),
      }),
    );
    expect(config).toMatchObject({
      projection_dim: 1024,
      vision_config: {
        hidden_size: 1280,
        num_attention_heads: 16,
        num_hidden_layers: 32,
        image_size: 224,
        patch_size: 14,
      },
      text_config: { hidden_size: 1024, num_attention_heads: 16, num_hidden_layers: 24, vocab_size: 49408 },
    });
  });

  test("that is something else, or lacks a tensor, is refused by its name", async () => {
    const path = "clip.pt";
    expect(() => readOpenClipModel(shapes({ "layers.0.weight": [1, 1] }))).toThrow(
      inputError("model-unsupported", { path, missing: "visual.conv1.weight", found: "layers.0.weight" }),
    );
    expect(() => readOpenClipModel(shapes({ "module.visual.conv1.weight": [64, 3, 8, 8] }))).toThrow(
      inputError("tensor-missing", { path, tensor: "module.visual.positional_embedding" }),
    );
  });
});

/** The published file of LAION, which is not part of this package. */
const HEAD =
  process.env.ALIGNPROP_AESTHETIC_HEAD ??
  fileURLToPath(new URL("../../../shared/data/sac+logos+ava1-l14-linearMSE.pth", import.meta.url));

test.skipIf(!existsSync(HEAD))(
  "the published aesthetic head gives PyTorch's scores (skipped where ../shared/data does not hold it)",
  async () => {
    const head = withPrefix(await openPytorch(HEAD), "head.");
    const config = aestheticConfigOf(head, "head");
    const { scores } = JSON.parse(await readFile(join(golden("aesthetic-head"), "golden.json"), "utf8"));
    // The embedding 1, -2, 3, … -768, normalized, and its negative.
    const raw = Array.from({ length: 768 }, (_, i) => (i % 2 === 0 ? i + 1 : -(i + 1)));
    const norm = Math.hypot(...raw);
    const embedding = [...raw.map((x) => x / norm), ...raw.map((x) => -x / norm)];
    const weights = new Map();
    for (const name of head.names()) weights.set(name, await readTensor(head.get(name) as StoredTensor));
    const x = input([2, 768]);
    const graph = { name: "head", inputs: { x }, outputs: { y: aestheticScore(frozenScope(head, "head"), config, x) } };
    const { y } = interpret(graph, { x: fromNumbers(embedding, [2, 768]) }, (name) => weights.get(name));
    for (const [i, score] of toNumbers(fromNumbers(y?.data ?? [], [2])).entries())
      expect(score).toBeCloseTo(scores[i], 4);
  },
);
