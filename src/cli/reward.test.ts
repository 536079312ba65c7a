import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import sharp from "sharp";
import { afterAll, describe, expect, test } from "vitest";
import { parse } from "yaml";
import { alignprop, errorOf } from "../../test/command-line.js";
import { model, node, tensor } from "../../test/onnx-model.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-reward-"));
afterAll(() => rm(scratch, { recursive: true }));
const vit = fileURLToPath(new URL("../../test/goldens/onnx/vit.dynamo-21.onnx", import.meta.url));
const image = join(scratch, "stripes.png");
const stripes = Uint8Array.from({ length: 3 * 40 * 30 }, (_, i) => (Math.floor(i / 9) % 2 === 0 ? 220 : 30));
await sharp(stripes, { raw: { width: 40, height: 30, channels: 3 } })
  .png()
  .toFile(image);
const out = join(scratch, "heat.png");

/** Runs the command on the image of stripes. */
const check = (...args: string[]) => alignprop("reward", "check", "--image", image, "--threads", "1", ...args);

describe("reward check", () => {
  test("describes the file, computes the reward of an image, and shows the gradient beside the image", async () => {
    const { code, stdout } = await check(vit, "--out", out, "--class", "1", "--json");
    expect(code).toBe(0);
    const report = JSON.parse(stdout);
    expect(report).toMatchObject({
      opset: 21,
      inputs: [{ name: "image", dtype: "float32", shape: [1, 3, 24, 24] }],
      outputs: [{ name: "output", shape: [1, 5], use: "class", reason: null }],
      preprocessing: { size: [24, 24], layout: "nchw", mean: [0, 0, 0] },
      image_input: "image",
      preprocessor: null,
      heat_map: out,
    });
    expect(report.operators).toMatchObject({ Conv: 1, Softmax: 2 });
    expect(report.parameters).toBeGreaterThan(1000);
    expect(report.gradient_norm).toBeGreaterThan(0);
    expect(Object.values(report.seconds).every((seconds) => (seconds as number) > 0)).toBe(true);
    const { data, info } = await sharp(await readFile(out))
      .raw()
      .toBuffer({ resolveWithObject: true });
    expect([info.width, info.height]).toEqual([80, 30]);
    // The image is on the left. The heat map on the right has bright and dark pixels.
    expect([...data.subarray(0, 120)]).toEqual([...stripes.subarray(0, 120)]);
    const right = Array.from({ length: 30 }, (_, row) => [
      ...data.subarray((row * 80 + 40) * 3, (row + 1) * 240),
    ]).flat();
    expect(Math.max(...right)).toBe(255);
    expect(Math.min(...right)).toBeLessThan(60);
  });

  test("uses the largest value of the output if no class is given, and says so", async () => {
    const chosen = async (...args: string[]) =>
      JSON.parse((await check(vit, "--out", out, "--json", ...args)).stdout).value;
    const each: number[] = [];
    for (let i = 0; i < 5; i++) each.push(await chosen("--class", String(i)));
    expect(await chosen()).toBeCloseTo(Math.max(...each), 6);
    const { stdout } = await check(vit, "--out", out, "--set", "preprocessing.mean=[0.5, 0.5, 0.5]");
    expect(stdout).toContain("the largest value of output");
    expect(stdout).toContain("mean 0.5 0.5 0.5");
    expect(stdout).toContain("class (0 … 4)");
  });

  test("prints the recipe of what was chosen", async () => {
    const args = [
      "--out",
      out,
      "--class",
      "1",
      "--set",
      "score=softmax",
      "--set",
      "preprocessing.mean=[0.5, 0.5, 0.5]",
    ];
    const recipe = { name: "onnx", file: vit, class: 1, score: "softmax", preprocessing: { mean: [0.5, 0.5, 0.5] } };
    expect(JSON.parse((await check(vit, ...args, "--json")).stdout).recipe).toEqual({ reward: recipe });
    const line = (await check(vit, ...args)).stdout.split("\n").find((one) => one.startsWith("recipe"));
    expect(parse(line?.replace("recipe", "") ?? "")).toEqual({ reward: recipe });
  });

  test("warns of a gradient that is 0", async () => {
    const dead = join(scratch, "dead.onnx");
    // Pixels of 0 … 1 never reach 5: a model that takes 0 … 255.
    const nodes = [
      node("Sub", ["x", "five"], ["s"]),
      node("Relu", ["s"], ["r"]),
      node("ReduceMean", ["r"], ["y"], { axes: [1, 2, 3], keepdims: 0 }),
    ];
    const five = tensor("five", [5], [], "float32");
    await writeFile(
      dead,
      model({ inputs: { x: ["n", 3, "h", "w"] }, outputs: ["y"], nodes, initializers: [five], opset: 17 }),
    );
    const { warnings } = JSON.parse((await check(dead, "--out", out, "--json")).stdout);
    expect(warnings).toEqual([expect.stringMatching(/gradient is 0.*preprocessing\.range/)]);
    const { stdout, stderr } = await check(dead, "--out", out, "--set", "preprocessing.range=[0, 255]");
    expect(stderr).not.toContain("gradient is 0");
    expect(stdout).toContain("range: [0, 255]");
  });

  test("gives an image the similarity 1 to itself", async () => {
    const { stdout } = await check(vit, "--similar", image, "--out", out, "--json");
    expect(JSON.parse(stdout).value).toBeCloseTo(1, 5);
  });

  test.each<[args: string[], code: string, facts: Record<string, unknown>]>([
    [["none.onnx"], "file-not-found", { path: expect.stringMatching(/none\.onnx$/) }],
    [[image], "file-malformed", { path: image }],
    [[vit, "--class", "9"], "reward-invalid", { path: vit, setting: "reward.class", class: 9 }],
    [[vit, "--class", "cat"], "reward-invalid", { path: vit, setting: "reward.class", found: "cat" }],
    [[vit, "--output", "logits"], "reward-invalid", { setting: "reward.output", found: "logits", outputs: ["output"] }],
    [
      [vit, "--set", "preprocesing.size=3"],
      "setting-unknown",
      { option: "--set", setting: "reward.preprocesing", suggestion: "reward.preprocessing" },
    ],
    [[vit, "--set", "preprocessing=3"], "setting-invalid", { setting: "reward.preprocessing", found: 3 }],
    [[vit, "--set", "file.x=3"], "setting-invalid", { setting: "reward.file" }],
    [[vit, "--set", "name=clip"], "usage", { option: "--set", found: "clip", expected: "onnx" }],
    [[vit, "--threads", "many"], "setting-invalid", { option: "--threads", setting: "threads", found: "many" }],
    [[vit, "--out", "heat.jpg"], "usage", { option: "--out", found: "heat.jpg", expected: ".png" }],
    [[vit, "--similar", vit], "image-invalid", { path: vit }],
  ])("%j ends with exit code 2 and writes nothing", async (args, code, facts) => {
    const target = args.includes("--out") ? [] : ["--out", join(scratch, "no.png")];
    expect(errorOf(await check(...args, ...target, "--json"))).toMatchObject({ code, ...facts });
    expect(await readdir(scratch)).not.toContain("no.png");
  });
});
