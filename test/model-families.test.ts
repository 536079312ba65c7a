/** The commands from end to end on Stable Diffusion 2 and XL: tiny folders with random weights (parity/families.py). */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, describe, expect, test } from "vitest";
import { runCommandLine } from "../src/cli/program.js";
import { openSafetensors } from "../src/weights/safetensors.js";
import { tinyFamily } from "./tiny.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-families-"));
afterAll(() => rm(scratch, { recursive: true }));

/** Runs a command that should succeed and parses its JSON. */
async function alignprop(...args: string[]) {
  const [printed, said]: [string[], string[]] = [[], []];
  const code = await runCommandLine([...args, "--json"], {
    isTTY: false,
    print: (line) => printed.push(line),
    say: (line) => said.push(line),
    update: (line) => said.push(line),
  });
  expect(code, said.join("\n")).toBe(0);
  return JSON.parse(printed.join("\n"));
}

const FAMILIES = [
  { family: "sd2", width: 16, height: 16, modules: 32 },
  { family: "sdxl", width: 24, height: 16, modules: 64 },
];

describe.each(FAMILIES)("$family", ({ family, width, height, modules }) => {
  const model = tinyFamily(family);
  const recipe = join(scratch, `${family}.yaml`);
  const run = join(scratch, family);

  test("can be planned, trained, evaluated and sampled, and its adapter changes the images", async () => {
    await writeFile(
      recipe,
      `model: ${JSON.stringify(model)}
reward: compressibility
loss: { form: maximize, scale: 1 }
threads: 1
lora: { rank: 2 }
sampling: { steps: 3, guidance_scale: 3 }
estimator: { truncation: { mode: fixed, k: 2 } }
batch: { samples_per_epoch: 4, total: 4, per_device: 2 }
prompts: { train: [cat, dog], eval: [two cats, horse] }
train: { steps: 2 }
evaluation: { every: 2, batch: 2 }
`,
    );
    const plan = await alignprop("plan", recipe, "--no-calibrate");
    expect(plan).toMatchObject({ steps: 2, unet_forward_calls_per_step: 6, unet_backward_calls_per_step: 4 });

    const trained = await alignprop("train", recipe, "--out", run);
    expect(trained).toMatchObject({ step: 2, interrupted: false });
    expect(trained.after.mean).not.toBe(trained.before.mean);
    const adapter = await openSafetensors(join(trained.checkpoint, "pytorch_lora_weights.safetensors"));
    expect([...adapter.names()]).toHaveLength(2 * modules);

    const evaluated = await alignprop("evaluate", recipe, "--adapter", run);
    expect(evaluated.mean).toBeCloseTo(trained.after.mean, 5);

    const generate = async (name: string, ...options: string[]) => {
      const file = join(scratch, `${family}-${name}.png`);
      await alignprop("generate", "--prompt", "horse", "--model", model, "--steps", "3", "--out", file, ...options);
      return sharp(await readFile(file))
        .raw()
        .toBuffer({ resolveWithObject: true });
    };
    const base = await generate("base");
    expect(base.info).toMatchObject({ width, height, channels: 3 });
    expect((await generate("adapted", "--adapter", run)).data.equals(base.data)).toBe(false);
    expect((await generate("negative", "--negative-prompt", "a dog")).data.equals(base.data)).toBe(false);
  });
});
