import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { parse } from "yaml";
import { settingsFrom } from "../../config/load.js";
import type { SettingsInput } from "../../config/settings.js";
import type { Plan } from "../../engine/plan.js";
import { PEFT_FILE } from "../../weights/lora-files.js";
import { RunFolder } from "../run-folder.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-card-"));
afterAll(() => rm(scratch, { recursive: true }));

/** A run of three steps, of which the second has the best evaluation, and its model cards. */
async function cards(name: string, changes: SettingsInput, prompts = ["a fox", "two | `wolves`\n```<b>"]) {
  const settings = await settingsFrom({ out: join(scratch, name), ...changes }, name);
  const run = await RunFolder.plan(settings);
  await run.observe({ kind: "started", plan: {} as Plan, step: 0 });
  for (const [step, mean] of [4, 5, 7, 6].entries()) {
    const images = prompts.map(() => ({ width: 1, height: 1, pixels: new Uint8Array([step, 0, 0]) }));
    const rewards = prompts.map((_, i) => mean + i - (prompts.length - 1) / 2);
    const seeds = prompts.map((_, i) => 40 + i);
    await run.observe({ kind: "evaluated", step, result: { prompts, seeds, rewards, images, mean, std: 0.5 } });
    if (step === 0) continue;
    const row = {
      step,
      epoch: 0,
      samples: step,
      loss: 0.05,
      reward_mean: mean - 1,
      reward_std: 0.25,
      reward_queries: 4,
      unet_calls: 8,
      grad_norm: 1,
    };
    const evaluated = { eval_reward_mean: mean, eval_reward_std: 0.5 };
    await run.observe({ kind: "stepped", metrics: { ...row, seconds: 1, peak_rss_bytes: 1, ...evaluated } });
    const files = new Map([PEFT_FILE, `${name}.kohya.safetensors`].map((file) => [file, new Uint8Array([step])]));
    await run.observe({ kind: "checkpointed", step, files });
  }
  await run.observe({ kind: "finished", result: { step: 3, steps: 3, interrupted: false, seconds: 1 } });
  const folder = (step: number) => join(run.path, `checkpoints/step-00000${step}`);
  const card = await readFile(join(folder(3), "README.md"), "utf8");
  return { folder, card, metadata: parse(card.split(/^---$/m)[1] ?? "") };
}

describe("the model card", async () => {
  const model = "stable-diffusion-v1-5/stable-diffusion-v1-5";
  const { folder, card, metadata } = await cards("vivid", { model, prompts: { negative: 'blurry "x"' } });

  test("has the metadata that the hub reads", () => {
    expect(metadata).toEqual({
      base_model: model,
      base_model_relation: "adapter",
      library_name: "diffusers",
      pipeline_tag: "text-to-image",
      tags: ["text-to-image", "diffusers", "lora", "stable-diffusion", "alignprop"],
      instance_prompt: null,
      widget: [
        { text: "a fox", output: { url: "images/000_a-fox.png" } },
        { text: "two | `wolves`\n```<b>", output: { url: "images/001_two-wolves-b.png" } },
      ],
    });
    expect(card).toMatch(/^# license: choose one/m);
  });

  test("is written beside the last adapter and the best one, with its images", async () => {
    expect((await readdir(folder(3))).sort()).toEqual(["README.md", "images", PEFT_FILE, "vivid.kohya.safetensors"]);
    expect((await readdir(join(folder(2), "images"))).sort()).toEqual(["000_a-fox.png", "001_two-wolves-b.png"]);
    expect(await readFile(join(folder(2), "README.md"), "utf8")).toContain(
      "It was\ntrained for 2 steps of 128 images.",
    );
    const image = await readFile(join(folder(2), "images/000_a-fox.png"));
    expect(image).not.toEqual(await readFile(join(folder(3), "images/000_a-fox.png")));
    for (const [, url] of card.matchAll(/!\[.*\]\((.*)\)/g)) {
      expect(await readdir(join(folder(3), "images"))).toContain(url?.replace("images/", ""));
    }
  });

  test("shows the rewards", () => {
    expect(card).toContain("the aesthetic reward went from 4.00 ± 0.500 to 6.00 ± 0.500");
    expect(card).toContain("| 0 | | 4.00 ± 0.500 | |\n| 1 | 4.00 ± 0.250 | 5.00 ± 0.500 | 0.0500 |\n");
  });

  test("shows how to load the adapter, with the sampling settings of the run", () => {
    expect(card).toContain(`DiffusionPipeline.from_pretrained("${model}")`);
    expect(card).toContain(`weight_name="${PEFT_FILE}"`);
    expect(card).toContain('negative_prompt="blurry \\"x\\""');
    expect(card).toContain("num_inference_steps=50,\n    guidance_scale=7.5,");
    expect(card).toContain("manual_seed(40)");
    expect(card).toContain("<lora:vivid.kohya:1>");
    expect(card).toContain(
      "alignprop generate --adapter . --model 'stable-diffusion-v1-5/stable-diffusion-v1-5' --prompt 'a fox'",
    );
  });

  test("escapes Markdown in prompts", () => {
    expect(card).toContain("two \\| \\`wolves\\` \\`\\`\\`\\<b\\> | 41 |");
    // Three code blocks, each with its start and its end.
    expect(card.match(/^```.*$/gm)).toEqual(["```python", "```", "```sh", "```", "```yaml", "```"]);
  });
});

test("the card of a model that is not on the hub leaves the base model to the user", async () => {
  const { card, metadata } = await cards("local", { model: join(process.cwd(), "models/emoji-64") }, ["```\n--- 'x'"]);
  expect(metadata).not.toHaveProperty("base_model");
  expect(card).toMatch(/^# base_model: the id of the base model on the hub$/m);
  expect(card).toContain('from_pretrained("path/to/emoji-64")');
  expect(card).not.toContain(process.cwd());
  expect(card).toContain(`--prompt '\`\`\` --- '\\''x'\\''' --seed 40`);
  expect(card.match(/^```/gm)).toHaveLength(6);
});
