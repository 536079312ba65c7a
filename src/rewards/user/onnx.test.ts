import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inputError } from "../../../test/errors.js";
import { type ModelInit, model, node, tensor } from "../../../test/onnx-model.js";
import { gradients } from "../../autodiff/index.js";
import { interpret } from "../../graph/interpret.js";
import { readImage } from "../../images/read.js";
import { imageTensor } from "../../images/rgb.js";
import { filled, input } from "../../ops/index.js";
import { Runtime } from "../../runtime/runtime.js";
import { fromNumbers, type HostTensor, toNumbers } from "../../tensor/host.js";
import { Rng } from "../../tensor/rng.js";
import { readTensor } from "../../weights/source.js";
import { onnxReward, onnxSchema } from "./onnx.js";

const scratch = mkdtempSync(join(tmpdir(), "alignprop-onnx-reward-"));
afterAll(() => rmSync(scratch, { recursive: true }));
const path = join(scratch, "model.onnx");
const golden = (name: string) => fileURLToPath(new URL(`../../../test/goldens/onnx/${name}`, import.meta.url));
const find = (location: string) => (location.startsWith("/") ? location : join(scratch, location));

const open = (settings: Record<string, unknown> = {}) =>
  onnxReward(onnxSchema.parse({ name: "onnx", file: path, ...settings }), { find });

/** Rewards of a batch of images, in float64. */
async function rewardsOf(
  settings: Record<string, unknown>,
  pixels: Float64Array,
  shape: readonly number[],
): Promise<number[]> {
  const reward = await open(settings);
  const images = input(shape);
  const { rewards } = reward.build(images);
  const weights = new Map<string, HostTensor>();
  for (const name of reward.weights.names()) {
    const stored = reward.weights.get(name);
    if (stored) weights.set(name, await readTensor(stored));
  }
  const graph = { name: "onnx", inputs: { images }, outputs: { rewards } };
  return [...(interpret(graph, { images: { shape, data: pixels } }, (name) => weights.get(name)).rewards?.data ?? [])];
}

const write = (init: ModelInit) => writeFileSync(path, model(init));
const rng = new Rng(5);
const noise = (...shape: number[]) =>
  Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => rng.uniform());

/** The mean of each channel of the model's input, which shows the effect of preprocessing. */
const CHANNEL_MEANS: ModelInit = {
  inputs: { x: ["n", 3, "h", "w"] },
  outputs: ["y"],
  nodes: [node("ReduceMean", ["x"], ["y"], { axes: [2, 3], keepdims: 0 })],
  opset: 17,
};

describe("the reward is", () => {
  const pixels = Float64Array.of(0.1, 0.5, 0.9, 0.2, 0.3, 0.8);
  const shape = [2, 3, 1, 1];

  test("the number of a class, or its probability", async () => {
    write(CHANNEL_MEANS);
    const logits = [0.1, 0.5, 0.9];
    const total = logits.reduce((sum, x) => sum + Math.exp(x), 0);
    const first = async (settings: Record<string, unknown>) =>
      (await rewardsOf({ class: 1, ...settings }, pixels, shape))[0];
    expect(await rewardsOf({ class: 2 }, pixels, shape)).toEqual([0.9, 0.8]);
    expect(await first({ score: "softmax" })).toBeCloseTo(Math.exp(0.5) / total, 6);
    expect(await first({ score: "log-softmax" })).toBeCloseTo(0.5 - Math.log(total), 6);
    expect(await first({ score: "sigmoid" })).toBeCloseTo(1 / (1 + Math.exp(-0.5)), 6);
  });

  test("the number of a class by its label, from the config.json beside the model or a text file", async () => {
    write(CHANNEL_MEANS);
    writeFileSync(join(scratch, "labels.txt"), "red\ngreen\nblue\n");
    expect((await rewardsOf({ class: "Blue", labels: "labels.txt" }, pixels, shape))[0]).toBe(0.9);
    await expect(open({ class: "blue" })).rejects.toThrow(
      inputError("reward-invalid", { path, setting: "reward.class", found: "blue" }),
    );
    writeFileSync(join(scratch, "config.json"), JSON.stringify({ id2label: { 0: "red", 1: "green", 2: "blue" } }));
    expect((await rewardsOf({ class: "green" }, pixels, shape))[0]).toBe(0.5);
    await expect(open({ class: "gren" })).rejects.toThrow(
      inputError("reward-invalid", {
        path,
        setting: "reward.class",
        found: "gren",
        labels: join(scratch, "config.json"),
        suggestion: "green",
      }),
    );
  });

  test("the only number of the output", async () => {
    write({ ...CHANNEL_MEANS, nodes: [node("ReduceMean", ["x"], ["y"], { axes: [1, 2, 3] })] });
    for (const [i, value] of [0.5, 1.3 / 3].entries())
      expect((await rewardsOf({}, pixels, shape))[i]).toBeCloseTo(value, 6);
  });

  test("the cosine similarity to an embedding from a file, or to that of an image", async () => {
    write(CHANNEL_MEANS);
    writeFileSync(join(scratch, "target.json"), "[3, 0, 0]");
    const length = Math.hypot(0.1, 0.5, 0.9);
    expect((await rewardsOf({ similarity: { embedding: "target.json" } }, pixels, shape))[0]).toBeCloseTo(
      0.1 / length,
      6,
    );
    const blue = { width: 4, height: 4, channels: 3 as const, background: { r: 0, g: 0, b: 255 } };
    await sharp({ create: blue }).png().toFile(join(scratch, "blue.png"));
    expect((await rewardsOf({ similarity: { picture: "blue.png" } }, pixels, shape))[0]).toBeCloseTo(0.9 / length, 6);
    writeFileSync(join(scratch, "target.json"), "[1, 2]");
    await expect(open({ similarity: { embedding: "target.json" } })).rejects.toThrow(
      inputError("reward-invalid", { path, output: "y", perImage: 3, expected: 2 }),
    );
  });

  test("the most confident query of a detector", async () => {
    // Each pixel is a query and each channel a class.
    const nodes = [node("Reshape", ["x", "rows"], ["f"]), node("Transpose", ["f"], ["y"], { perm: [0, 2, 1] })];
    write({ ...CHANNEL_MEANS, nodes, initializers: [tensor("rows", [0, 0, -1])] });
    expect(await rewardsOf({ class: 1 }, Float64Array.of(1, 2, 3, 4, 5, 6), [1, 3, 1, 2])).toEqual([4]);
  });
});

describe("the input of the model", () => {
  const shape = [1, 3, 4, 6];
  const pixels = noise(...shape);
  const mean = (channel: number, keep: (row: number, column: number) => boolean = () => true) => {
    const values = [...pixels].filter(
      (_, i) => Math.floor(i / 24) === channel && keep(Math.floor((i % 24) / 6), i % 6),
    );
    return values.reduce((a, b) => a + b, 0) / values.length;
  };

  test("has the range, mean, standard deviation and order of channels of the settings", async () => {
    write(CHANNEL_MEANS);
    const preprocessing = { range: [-1, 1], mean: [0.1, 0.2, 0.3], std: [0.5, 0.6, 0.7] };
    expect((await rewardsOf({ class: 1, preprocessing }, pixels, shape))[0]).toBeCloseTo(
      (2 * mean(1) - 1 - 0.2) / 0.6,
      6,
    );
    expect(
      (await rewardsOf({ class: 0, preprocessing: { channels: "bgr", range: [0, 255] } }, pixels, shape))[0],
    ).toBeCloseTo(255 * mean(2), 4);
  });

  test("is cropped at the center after resizing", async () => {
    write(CHANNEL_MEANS);
    const inside = (row: number, column: number) => row >= 1 && row < 3 && column >= 1 && column < 5;
    expect((await rewardsOf({ class: 0, preprocessing: { crop: [2, 4] } }, pixels, shape))[0]).toBeCloseTo(
      mean(0, inside),
      6,
    );
    await expect(open({ class: 0, preprocessing: { size: 4, crop: 8 } })).rejects.toThrow(
      inputError("reward-invalid", {
        path,
        setting: "reward.preprocessing.crop",
        found: [8, 8],
        expected: [4, 4],
      }),
    );
  });

  test("has the size and layout that the model declares", async () => {
    write({
      ...CHANNEL_MEANS,
      inputs: { x: [1, 8, 10, 3] },
      nodes: [node("ReduceMean", ["x"], ["y"], { axes: [1, 2], keepdims: 0 })],
    });
    const flat = Float64Array.from({ length: 72 }, (_, i) => Math.floor(i / 24) / 4);
    expect((await rewardsOf({ class: 2 }, flat, shape))[0]).toBeCloseTo(0.5, 6);
    await expect(open({ class: 2, preprocessing: { size: 7 } })).rejects.toThrow(
      inputError("reward-invalid", { path, input: "x", expected: "[1, 8, 10, 3]", found: "[1, 7, 7, 3]" }),
    );
  });

  test("follows the preprocessor_config.json beside the model where the settings are null", async () => {
    const folder = join(scratch, "hf");
    mkdirSync(folder);
    const file = join(folder, "model.onnx");
    writeFileSync(file, model(CHANNEL_MEANS));
    const config = {
      do_resize: false,
      do_center_crop: true,
      crop_size: 2,
      do_normalize: true,
      image_mean: [0.5, 0.5, 0.5],
      image_std: [0.25, 0.5, 1],
    };
    writeFileSync(join(folder, "preprocessor_config.json"), JSON.stringify(config));
    const inside = (row: number, column: number) => row >= 1 && row < 3 && column >= 2 && column < 4;
    expect((await rewardsOf({ file, class: 0 }, pixels, shape))[0]).toBeCloseTo((mean(0, inside) - 0.5) / 0.25, 5);
    expect((await rewardsOf({ file, class: 0, preprocessing: { mean: [0, 0, 0] } }, pixels, shape))[0]).toBeCloseTo(
      mean(0, inside) / 0.25,
      5,
    );
  });

  test("includes further inputs, which the settings fill", async () => {
    write({
      ...CHANNEL_MEANS,
      inputs: { x: ["n", 3, "h", "w"], mask: ["n", "h", "w"], shift: ["n", 3] },
      nodes: [
        ...CHANNEL_MEANS.nodes.map((one) => ({ ...one, output: ["m"] })),
        node("ReduceSum", ["mask"], ["s"], { keepdims: 0 }),
        node("Mul", ["m", "s"], ["p"]),
        node("Add", ["p", "shift"], ["y"]),
      ],
    });
    await expect(open({ class: 0, inputs: { mask: 1 } })).rejects.toThrow(
      inputError("reward-invalid", {
        path,
        setting: "reward.inputs.shift",
        input: "shift",
        expected: "float32[n, 3]",
      }),
    );
    expect((await rewardsOf({ class: 1, inputs: { mask: 2, shift: [0, 5, 0] } }, pixels, shape))[0]).toBeCloseTo(
      mean(1) * 48 + 5,
      4,
    );
    await expect(open({ class: 0, inputs: { mask: 1, shift: [1] } })).rejects.toThrow(
      inputError("reward-invalid", { path, setting: "reward.inputs.shift", expected: "float32[n, 3]", found: 1 }),
    );
  });
});

describe("an ONNX reward is refused", () => {
  test("if a node blocks the gradient, and the node is named", async () => {
    write({
      ...CHANNEL_MEANS,
      nodes: [
        ...CHANNEL_MEANS.nodes.map((one) => ({ ...one, output: ["m"] })),
        node("ArgMax", ["m"], ["a"], { axis: 1 }),
        node("Cast", ["a"], ["y"], { to: 1 }),
      ],
    });
    await expect(open()).rejects.toThrow(
      inputError("reward-no-gradient", {
        path,
        output: "y",
        nodes: expect.arrayContaining(['node "the ArgMax" (ArgMax)']),
        before: ["m"],
      }),
    );
  });

  test("if the settings select nothing, or something that does not exist", async () => {
    write(CHANNEL_MEANS);
    await expect(open()).rejects.toThrow(
      inputError("reward-invalid", { path, setting: "reward.class", output: "y", found: "float32[1, 3]", perImage: 3 }),
    );
    await expect(open({ class: 3 })).rejects.toThrow(
      inputError("reward-invalid", { path, setting: "reward.class", class: 3, found: "float32[1, 3]" }),
    );
    await expect(open({ output: "z" })).rejects.toThrow(
      inputError("reward-invalid", { path, setting: "reward.output", found: "z", outputs: ["y"] }),
    );
    await expect(open({ input: "z" })).rejects.toThrow(
      inputError("reward-invalid", { path, setting: "reward.input", found: "z", inputs: ["x"] }),
    );
  });

  test("if the model does not take RGB images", async () => {
    write({ ...CHANNEL_MEANS, inputs: { x: ["n", 1, "h", "w"] } });
    await expect(open({ class: 0 })).rejects.toThrow(
      inputError("reward-invalid", { path, setting: "reward.input", input: "x", found: "[n, 1, h, w]" }),
    );
    write({ ...CHANNEL_MEANS, inputs: { x: ["n", 3] } });
    await expect(open({ class: 0 })).rejects.toThrow(
      inputError("reward-invalid", { path, setting: "reward.input", inputs: ["x"], candidates: [] }),
    );
  });

  test("if the image to compare with is not an image", async () => {
    write(CHANNEL_MEANS);
    writeFileSync(join(scratch, "broken.png"), "not an image");
    const opening = open({ similarity: { picture: "broken.png" } });
    await expect(opening).rejects.toThrow(inputError("image-invalid", { path: join(scratch, "broken.png") }));
  });
});

describe("an exported model as a reward", () => {
  let runtime: Runtime;
  beforeAll(async () => {
    runtime = await Runtime.start({ threads: 1 });
  });
  afterAll(() => runtime.close());

  test.each([["vit.dynamo-21.onnx"], ["resnet.torchscript-11.onnx"]])(
    "%s, exported for a batch of one, scores three images independently, with the gradient of finite differences",
    async (name) => {
      const reward = await open({ file: golden(name), class: 3, score: "log-softmax" });
      const shape = [3, 3, 20, 20];
      const images = input(shape);
      const { rewards } = reward.build(images);
      const [gradient] = gradients([{ value: rewards, gradient: filled([3], 1) }], [images]);
      if (!gradient) throw new Error("no gradient");
      const program = await runtime.compile(
        { name, inputs: { images }, outputs: { rewards, gradient } },
        reward.weights,
      );
      const run = async (pixels: Float64Array) => {
        const results = await program.run({ images: fromNumbers(pixels, shape) });
        return {
          rewards: [...toNumbers(results.rewards as HostTensor)],
          gradient: toNumbers(results.gradient as HostTensor),
        };
      };
      const pixels = noise(...shape);
      const { rewards: given, gradient: slope } = await run(pixels);
      const rotated = await run(Float64Array.from(pixels, (_, i) => pixels[(i + 1200) % 3600] as number));
      for (const [i, value] of rotated.rewards.entries()) expect(value).toBeCloseTo(given[(i + 1) % 3] as number, 5);
      // Along the gradient itself, the direction of the largest change: float32 rounds the least there.
      const length = Math.hypot(...slope);
      const step = 0.02 / length;
      const along = async (sign: number) =>
        (await run(pixels.map((p, i) => p + sign * step * (slope[i] as number)))).rewards.reduce((a, b) => a + b);
      expect(((await along(1)) - (await along(-1))) / (2 * step * length)).toBeCloseTo(length, 1);
      await program.release();
    },
  );
});

test("an image is read as rewards see it, with transparent pixels white", async () => {
  const file = join(scratch, "two.png");
  await sharp(Buffer.from([255, 0, 0, 255, 0, 0, 0, 0]), { raw: { width: 2, height: 1, channels: 4 } })
    .png()
    .toFile(file);
  const { shape, data } = imageTensor(await readImage(file));
  expect([shape, [...data]]).toEqual([
    [1, 3, 1, 2],
    [1, 1, 0, 1, 0, 1],
  ]);
});
