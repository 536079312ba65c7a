import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { loadSettings } from "./index.js";

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "alignprop-foreign-"));
});
afterAll(() => rm(root, { recursive: true }));

async function recipe(name: string, content: string): Promise<string> {
  const path = join(root, name);
  await writeFile(path, content);
  return path;
}

describe("configurations of other tools", () => {
  test("of TRL's AlignProp are answered with our keys and the recipe that does the same", async () => {
    const path = await recipe(
      "trl.yaml",
      "num_epochs: 50\ntrain_batch_size: 4\nsample_num_steps: 50\ntrain_learning_rate: 0.001\nseed: 1\n" +
        "truncated_backprop_timestep: 49\nbackprop_strategy: gaussian\nmixed_precision: fp16\n",
    );
    const error = await loadSettings({ recipe: path }).catch((caught) => caught);
    expect(error).toEqual(
      inputError("recipe-malformed", {
        path,
        found: "TRL's AlignPropConfig",
        keys: expect.arrayContaining(["num_epochs", "train_batch_size", "seed"]),
        suggestion: "aesthetic",
      }),
    );
    expect(error.message).toMatch(/train_learning_rate +optimizer\.learning_rate/);
    expect(error.message.split("\n")).toHaveLength(9);
  });

  test("of TRL's DDPO", async () => {
    const path = await recipe(
      "ddpo.yaml",
      "num_epochs: 200\nsample_batch_size: 6\nsample_num_batches_per_epoch: 4\ntrain_clip_range: 0.0001\n",
    );
    await expect(loadSettings({ recipe: path })).rejects.toThrow(
      inputError("recipe-malformed", { found: "TRL's DDPOConfig", recipes: ["ddpo"] }),
    );
  });

  test("of AlignProp, as YAML and as the Python program that it is", async () => {
    const path = await recipe(
      "align_prop.yaml",
      "sd_guidance_scale: 7.5\nreward_fn: aesthetic\nprompt_fn: simple_animals\nsteps: 50\ntrain:\n  learning_rate: 0.001\n",
    );
    await expect(loadSettings({ recipe: path })).rejects.toThrow(
      inputError("recipe-malformed", { found: "AlignProp's config/align_prop.py" }),
    );
    const program = await recipe(
      "align_prop.py",
      "import ml_collections\n\ndef general():\n  config = ml_collections.ConfigDict()\n  config.steps = 50\n  return config\n",
    );
    await expect(loadSettings({ recipe: program })).rejects.toThrow(
      inputError("recipe-malformed", { path: program, found: "Python", suggestion: "aesthetic" }),
    );
  });

  test("a recipe with one misspelled key is not taken for one of them", async () => {
    const path = await recipe("mine.yaml", "reward: aesthetic\nnum_epochs: 2\n");
    await expect(loadSettings({ recipe: path })).rejects.toThrow(
      inputError("setting-unknown", { setting: "num_epochs" }),
    );
  });
});

describe("a file of another kind as a recipe", () => {
  const golden = (path: string) => fileURLToPath(new URL(`../../test/goldens/${path}`, import.meta.url));

  test.each([
    ["adapters/kohya/pytorch_lora_weights.safetensors", "adapter"],
    ["ldm/sd1.safetensors", "model-file"],
    ["tiny-sd/scheduler/scheduler_config.json", "json"],
  ])("%s is named as what it is", async (path, found) => {
    await expect(loadSettings({ recipe: golden(path) })).rejects.toThrow(
      inputError("recipe-malformed", { path: golden(path), found }),
    );
  });

  test("a folder too", async () => {
    await expect(loadSettings({ recipe: golden("tiny-sd") })).rejects.toThrow(
      inputError("recipe-not-found", { found: "pipeline" }),
    );
  });
});
