import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import sharp from "sharp";
import { afterAll, describe, expect, test } from "vitest";
import { runCommandLine } from "./program.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-reward-"));
afterAll(() => rm(scratch, { recursive: true }));
const vit = fileURLToPath(new URL("../../test/goldens/onnx/vit.dynamo-21.onnx", import.meta.url));
const image = join(scratch, "stripes.png");
const stripes = Uint8Array.from({ length: 3 * 40 * 30 }, (_, i) => (Math.floor(i / 9) % 2 === 0 ? 220 : 30));
await sharp(stripes, { raw: { width: 40, height: 30, channels: 3 } })
  .png()
  .toFile(image);
const out = join(scratch, "heat.png");

async function check(...args: string[]) {
  const [printed, said]: [string[], string[]] = [[], []];
  const code = await runCommandLine(["reward", "check", ...args], {
    isTTY: false,
    print: (line) => printed.push(line),
    say: (line) => said.push(line),
    update: () => {},
  });
  return { code, printed: printed.join("\n"), said: said.join("\n") };
}

describe("reward check", () => {
  test("says what the file holds, its reward of a picture, and draws the gradient beside the picture", async () => {
    const { code, printed } = await check(
      vit,
      "--image",
      image,
      "--out",
      out,
      "--class",
      "1",
      "--json",
      "--threads",
      "1",
    );
    expect(code).toBe(0);
    const report = JSON.parse(printed);
    expect(report).toMatchObject({
      opset: 21,
      inputs: [{ name: "image", dtype: "float32", shape: [1, 3, 24, 24] }],
      outputs: [{ name: "output", shape: [1, 5], use: "class", reason: null }],
      preprocessing: { size: [24, 24], layout: "nchw", mean: [0, 0, 0] },
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
    // To the left the picture as it is, to the right something hot and something dark.
    expect([...data.subarray(0, 120)]).toEqual([...stripes.subarray(0, 120)]);
    const right = Array.from({ length: 30 }, (_, row) => [
      ...data.subarray((row * 80 + 40) * 3, (row + 1) * 240),
    ]).flat();
    expect(Math.max(...right)).toBe(255);
    expect(Math.min(...right)).toBeLessThan(60);
  });

  test("where nothing is chosen takes the largest number, and says so", async () => {
    const chosen = async (...args: string[]) =>
      JSON.parse((await check(vit, "--image", image, "--out", out, "--json", "--threads", "1", ...args)).printed).value;
    const each: number[] = [];
    for (let i = 0; i < 5; i++) each.push(await chosen("--class", String(i)));
    expect(await chosen()).toBeCloseTo(Math.max(...each), 6);
    const { printed } = await check(
      vit,
      "--image",
      image,
      "--out",
      out,
      "--threads",
      "1",
      "--set",
      "preprocessing.mean=[0.5, 0.5, 0.5]",
    );
    expect(printed).toContain("the largest number of output (nothing was chosen)");
    expect(printed).toContain("mean 0.5 0.5 0.5");
    expect(printed).toContain("a reward with class (0 … 4) or similarity");
  });

  test("of a picture with itself is a likeness of 1", async () => {
    const { printed } = await check(
      vit,
      "--image",
      image,
      "--similar",
      image,
      "--out",
      out,
      "--json",
      "--threads",
      "1",
    );
    expect(JSON.parse(printed).value).toBeCloseTo(1, 5);
  });

  test.each([
    [["none.onnx"], "none.onnx: cannot be read: no such file or folder"],
    [[image], "Is it an ONNX file?"],
    [[vit, "--class", "9"], "there is no class 9"],
    [[vit, "--class", "cat"], '"cat" is a label, but there is no config.json with labels beside the model'],
    [[vit, "--output", "logits"], 'has no output "logits"'],
    [[vit, "--set", "preprocesing.size=3"], "preprocesing"],
    [[vit, "--set", "preprocessing=3"], "reward check: preprocessing is 3"],
    [[vit, "--out", "heat.jpg"], "name a .png file"],
    [[vit, "--similar", vit], "cannot be read as an image"],
  ])("%j ends with 2 and a message that helps", async (args, message) => {
    const { code, said } = await check(
      ...args,
      "--image",
      image,
      ...(args.includes("--out") ? [] : ["--out", join(scratch, "no.png")]),
    );
    expect(said).toContain(message);
    expect(code).toBe(2);
    expect(await readdir(scratch)).not.toContain("no.png");
  });
});
