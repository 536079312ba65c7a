import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import type { ErrorFacts } from "../errors/index.js";
import { loadSettings, settingsFrom } from "./load.js";
import { type Override, parseSet } from "./overrides.js";
import { recipeNames } from "./recipe.js";

const folder = await mkdtemp(join(tmpdir(), "alignprop-settings-"));
afterAll(() => rm(folder, { recursive: true }));

const shipped = await recipeNames();

/** Writes a recipe under a name of its own. */
let written = 0;
async function recipe(text: string): Promise<string> {
  const file = join(folder, `recipe-${written++}.yaml`);
  await writeFile(file, text);
  return file;
}

/** The settings of a recipe with this text. */
async function load(text: string, ...sets: string[]) {
  return loadSettings({ recipe: await recipe(text), overrides: sets.map(parseSet) });
}

describe("a recipe", () => {
  test.each(shipped)("%s that ships with the package is valid", async (name) => {
    const absent: string[] = [];
    const settings = await loadSettings({ recipe: name, absentPrompts: (message) => absent.push(message) });
    expect(settings.name).toBe(name);
    expect(absent).toHaveLength(name.startsWith("hps") ? 2 : 0);
  });

  test("with the absent prompts of the HPSv2 benchmark is refused with a place where they can be found", async () => {
    await expect(loadSettings({ recipe: "hps" })).rejects.toThrow(
      inputError("file-not-found", {
        setting: "prompts.train",
        path: expect.stringMatching(/hps_v2_all\.txt$/),
        source: "github.com/mihirp1998/AlignProp/assets/hps_v2_all.txt",
      }),
    );
  });

  test("of the paper's code has its numbers", async () => {
    const load = (recipe: string) => loadSettings({ recipe, absentPrompts: () => {} });
    const optimizer = {
      learning_rate: 1e-3,
      beta1: 0.9,
      beta2: 0.999,
      epsilon: 1e-8,
      weight_decay: 0.1,
      max_grad_norm: 5,
    };
    const random = { mode: "per-step", low: 0, high: 50 };
    const last = { mode: "fixed", k: 1 };
    for (const [recipe, steps, target, truncation] of [
      ["aesthetic", 14, 10, random],
      ["aesthetic-k1", 14, 10, last],
      ["hps", 400, 1, random],
      ["hps-k1", 400, 1, last],
    ] as const) {
      const settings = await load(recipe);
      expect(settings).toMatchObject({
        seed: 42,
        sampling: { steps: 50, eta: 0, guidance_scale: 7.5 },
        loss: { form: "target", target, scale: 0.01 },
        lora: { rank: 4, alpha: null, targets: ["to_q", "to_k", "to_v", "to_out.0"] },
        estimator: { truncation },
        optimizer,
        batch: { samples_per_epoch: 256, total: 128, per_device: 4 },
        train: { steps },
      });
    }
    for (const recipe of ["evaluate", "evaluate-soup"]) {
      const { evaluation, prompts } = await load(recipe);
      expect(evaluation.seed).toBe(42);
      // The reference evaluates 40 images.
      expect(Math.abs(prompts.eval.length * evaluation.seeds_per_prompt - 40)).toBeLessThanOrEqual(5);
    }
  });

  test("may give a reward by its name only", async () => {
    expect((await load("reward: clip")).reward).toMatchObject({ name: "clip", clip: "models/rewards/clip" });
  });

  test("may be empty", async () => {
    expect((await load("")).batch.total).toBe(128);
  });

  test("names the run after its file, without characters that the name of a run cannot contain", async () => {
    for (const [file, name] of [
      ["my recipe (2).yaml", "my-recipe-2-"],
      [".hidden.yml", "hidden"],
      ["größe.yaml", "gr-e"],
      [`${"long".repeat(50)}.yaml`, "long".repeat(25)],
    ] as const) {
      await writeFile(join(folder, file), "");
      const settings = await loadSettings({ recipe: join(folder, file) });
      expect(settings.name).toBe(name);
      // The name is valid in the run's config.yaml.
      expect((await settingsFrom({ name: settings.name })).name).toBe(name);
    }
  });

  test("may give its length in epochs", async () => {
    expect((await load("train: { epochs: 3 }")).train).toEqual({ steps: 6 });
  });

  test("resolves lists of prompts by name and keeps lists as they are", async () => {
    const { prompts } = await load('prompts: { train: held-out-animals, eval: [a fox, "two: cats"] }');
    expect(prompts.train).toContain("octopus");
    expect(prompts.eval).toEqual(["a fox", "two: cats"]);
  });
});

describe("wrong settings", () => {
  test("are reported together, each with its line and the nearest key", async () => {
    const file = await recipe(
      ["seed: -1", "optimizer:", "  learning_rate: fast", "  max_grad_nrm: 3", "rewrd: clip"].join("\n"),
    );
    await expect(loadSettings({ recipe: file })).rejects.toThrow(
      inputError("setting-invalid", {
        path: file,
        settings: ["seed", "optimizer.learning_rate", "optimizer.max_grad_nrm", "rewrd"],
        problems: [
          expect.stringMatching(/\.yaml:1: seed .*0.* -1$/),
          expect.stringMatching(/\.yaml:3: optimizer\.learning_rate .*number.* "fast"$/),
          expect.stringMatching(/\.yaml:4: optimizer\.max_grad_nrm .* optimizer\.max_grad_norm\?$/),
          expect.stringMatching(/\.yaml:5: rewrd .* reward\?$/),
        ],
      }),
    );
  });

  test.each<[text: string, facts: ErrorFacts]>([
    [
      "reward: aestetic",
      {
        setting: "reward.name",
        found: "aestetic",
        expected: expect.arrayContaining(["aesthetic", "hps", "pickscore", "image-reward", "clip", "compressibility"]),
        suggestion: "aesthetic",
      },
    ],
    ["device: gpu", { setting: "device", found: "gpu", expected: ["cpu", "cuda", "webgpu"], suggestion: undefined }],
    ["sampling: 50", { setting: "sampling", found: 50, expected: "a mapping (key: value)" }],
    ["sampling: { steps: 2.5 }", { setting: "sampling.steps", found: 2.5, expected: "a whole number" }],
    ["optimizer: { beta1: 1 }", { setting: "optimizer.beta1", found: 1, expected: "less than 1" }],
    ["loss: { target: .inf }", { setting: "loss.target", found: Infinity, expected: "a number" }],
    ["prompts: { train: [] }", { setting: "prompts.train", found: "[]", expected: "a list of at least 1" }],
    ["prompts: { template: a photo }", { setting: "prompts.template", found: "a photo" }],
    ["kl: { weight: -1 }", { setting: "kl.weight", found: -1, expected: "at least 0" }],
    [
      "estimator: dddpo",
      {
        setting: "estimator.name",
        found: "dddpo",
        expected: ["alignprop", "draft", "draft-lv", "refl", "adjoint-matching", "ddpo", "rwr", "module"],
      },
    ],
  ])("%s: is invalid, with facts %j", async (text, facts) => {
    await expect(load(text)).rejects.toThrow(
      inputError("setting-invalid", { settings: [facts.setting as string], line: 1, ...facts }),
    );
  });

  test.each([
    ["learning_rate: 1", "learning_rate", "optimizer.learning_rate"],
    ["optimizer: { max_grad_nrm: 1 }", "optimizer.max_grad_nrm", "optimizer.max_grad_norm"],
  ])("%s: is unknown, and the nearest key is suggested", async (text, setting, suggestion) => {
    await expect(load(text)).rejects.toThrow(inputError("setting-unknown", { setting, suggestion, line: 1 }));
  });

  test.each<[text: string, facts: ErrorFacts]>([
    ["train: { steps: 3, epochs: 2 }", { setting: "train.steps", with: "train.epochs" }],
    ["estimator: ddpo", { setting: "sampling.eta", found: 0, expected: 1, with: "estimator" }],
    ["estimator: adjoint-matching", { setting: "sampling.eta", found: 0, expected: 1, with: "estimator" }],
    ["estimator: { name: draft, k: 51 }", { setting: "estimator.k", found: 51, with: "sampling.steps", limit: 50 }],
    ["estimator: { name: draft, noises: 2 }", { setting: "estimator.noises", with: "name: draft" }],
    [
      "estimator: { name: refl, high: 50 }",
      { setting: "estimator.high", found: 50, with: "sampling.steps", limit: 49 },
    ],
    [
      "estimator: { name: rwr, updates: 3 }",
      { setting: "estimator.updates", found: 3, with: "batch.total", total: 128 },
    ],
    [
      "estimator: { truncation: { mode: fixed, mean: 3 } }",
      { setting: "estimator.truncation.mean", with: "mode: fixed" },
    ],
    [
      "estimator: { truncation: { mode: fixed, k: 51 } }",
      { setting: "estimator.truncation.k", found: 51, with: "sampling.steps", limit: 50 },
    ],
    ["batch: { total: 32, samples_per_epoch: 50 }", { setting: "batch.samples_per_epoch", found: 50, suggestion: 64 }],
    ["loss: { form: target }\nreward: clip", { setting: "loss.target", with: "loss.form", reward: "clip" }],
    [
      "evaluation: { diversity: models/rewards/clip }",
      { setting: "evaluation.diversity", with: "evaluation.seeds_per_prompt", found: 1, expected: 2 },
    ],
    ["early_stop: {}", { setting: "early_stop.monitor", with: "evaluation.held_out" }],
    [
      "early_stop: { monitor: reward, min_diversity: 0.5 }",
      { setting: "early_stop.min_diversity", with: "evaluation.diversity", found: 0.5 },
    ],
  ])("%s: is a conflict, with facts %j", async (text, facts) => {
    await expect(load(text)).rejects.toThrow(inputError("settings-conflict", { line: 1, ...facts }));
  });

  test("of a batch are reported with the nearest numbers that divide", async () => {
    await expect(load("batch: { total: 30 }")).rejects.toThrow(
      inputError("setting-invalid", {
        settings: ["batch.total", "batch.samples_per_epoch"],
        problems: [
          expect.stringMatching(/:1: batch\.total 30 .* 4 .*batch\.total 32/),
          expect.stringMatching(/:1: batch\.samples_per_epoch 256 .* 30; try batch.samples_per_epoch 256 .* 32$/),
        ],
      }),
    );
  });

  test("of a list of prompts that does not exist get the nearest list", async () => {
    await expect(load("prompts: { eval: held-out-animal }")).rejects.toThrow(
      inputError("prompts-invalid", { setting: "prompts.eval", suggestion: "held-out-animals" }),
    );
  });

  test.each<[text: string, facts: ErrorFacts]>([
    ["seed: 1\nseed: 2", { line: 2, reason: expect.stringContaining("Map keys must be unique") }],
    ["a: &x [1]\nb: *x", { reason: expect.stringContaining("aliases (*x) are not allowed") }],
    ["[1, 2]", { expected: "a mapping" }],
    ["[".repeat(100_000), { limit: 64 }],
    [`- ${"- ".repeat(100_000)}`, { limit: 64 }],
    ["seed: 1\n---\nseed: 2", { reason: expect.any(String) }],
    ["seed: [1", { reason: expect.any(String) }],
  ])("are refused in the form %.20j", async (text, facts) => {
    const path = await recipe(text);
    await expect(loadSettings({ recipe: path })).rejects.toThrow(inputError("recipe-malformed", { path, ...facts }));
  });

  test("in a file that is not text are refused without printing it", async () => {
    const path = join(folder, "image.yaml");
    await writeFile(path, new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0xff, 0xfe]));
    await expect(loadSettings({ recipe: path })).rejects.toThrow(inputError("file-malformed", { path }));
  });

  test("cannot reach an object's prototype", async () => {
    await expect(load("", "__proto__.polluted=1")).rejects.toThrow(
      inputError("setting-unknown", { setting: "__proto__", option: "--set" }),
    );
    expect(Object.prototype).not.toHaveProperty("polluted");
  });
});

describe("a recipe's name", () => {
  test("that is unknown gets the nearest one", async () => {
    await expect(loadSettings({ recipe: "defalt" })).rejects.toThrow(
      inputError("recipe-not-found", {
        recipe: "defalt",
        suggestion: "default",
        known: expect.arrayContaining(["adjoint-matching", "aesthetic"]),
      }),
    );
  });

  test("with a slash or .yaml is a file, which must exist", async () => {
    for (const path of [join(folder, "none.yaml"), `${folder}/`]) {
      await expect(loadSettings({ recipe: path })).rejects.toThrow(inputError("recipe-not-found", { recipe: path }));
    }
  });
});

describe("a reward that is a file", () => {
  test("takes settings beside it, whether the option or the recipe names it", async () => {
    const named = { path: ["reward"], value: "new.onnx", origin: "--reward new.onnx" };
    const fromOption = await loadSettings({ overrides: [parseSet("reward.class=1"), named] });
    expect(fromOption.reward).toMatchObject({ name: "onnx", file: "new.onnx", class: 1 });
    expect((await load("reward: new.onnx", "reward.class=1")).reward).toMatchObject({ file: "new.onnx", class: 1 });
    expect((await load("reward: own.js", "reward.options.a=2")).reward).toMatchObject({
      file: "own.js",
      options: { a: 2 },
    });
    expect((await load("reward: aesthetic", "reward.batch=2")).reward).toMatchObject({ name: "aesthetic", batch: 2 });
  });
});

describe("a setting with a new name", () => {
  const warned: string[] = [];
  const warn = (message: string) => void warned.push(message);
  const loadWith = async (text: string, ...sets: string[]) => {
    warned.length = 0;
    return loadSettings({ recipe: await recipe(text), overrides: sets.map(parseSet), warn });
  };

  test("is read by its old name in a recipe, with a warning that gives the new one", async () => {
    const evaluation = "evaluation: { held_out: clip, diversity: models/rewards/clip, seeds_per_prompt: 2 }";
    const rule = "early_stop: { watch: reward, least_gain: 0.5, least_diversity: 0.25 }";
    const settings = await loadWith(["train: { updates: 3 }", evaluation, rule].join("\n"));
    expect(settings.train).toEqual({ steps: 3 });
    expect(settings.early_stop).toMatchObject({ monitor: "reward", min_delta: 0.5, min_diversity: 0.25 });
    expect(warned).toEqual([
      expect.stringMatching(/\.yaml: .*train\.updates .*train\.steps$/),
      expect.stringMatching(/\.yaml: .*early_stop\.watch .*early_stop\.monitor$/),
      expect.stringMatching(/\.yaml: .*early_stop\.least_gain .*early_stop\.min_delta$/),
      expect.stringMatching(/\.yaml: .*early_stop\.least_diversity .*early_stop\.min_diversity$/),
    ]);
  });

  test("is read by its old name in --set, alone and inside of a mapping", async () => {
    for (const set of ["train.updates=3", "train={ updates: 3 }"]) {
      expect((await loadWith("train: { epochs: 1 }", set)).train).toEqual({ steps: 3 });
      expect(warned).toEqual([expect.stringMatching(/^--set train.*: .*train\.updates .*train\.steps$/)]);
    }
  });

  test("may be given by its old name in the recipe and by its new one in --set, which wins", async () => {
    expect((await loadWith("train: { updates: 3 }", "train.steps=5")).train).toEqual({ steps: 5 });
  });

  test("is refused under both names", async () => {
    const both = inputError("settings-conflict", { setting: "train.updates", with: "train.steps" });
    await expect(load("train: { updates: 3, steps: 3 }")).rejects.toThrow(both);
    await expect(load("", "train={ updates: 3, steps: 3 }")).rejects.toThrow(both);
  });

  test("is quiet without a new name", async () => {
    await loadWith("train: { steps: 3 }");
    expect(warned).toEqual([]);
  });
});

describe("trackers", () => {
  const added = (name: string): Override => ({
    path: ["trackers"],
    value: name,
    origin: `--track ${name}`,
    adds: true,
  });
  const mlflow = { name: "mlflow", uri: null, experiment: null };

  test("are given by name or with settings", async () => {
    const { trackers } = await load("trackers: [tensorboard, { name: mlflow, experiment: foxes }]");
    expect(trackers).toEqual([{ name: "tensorboard" }, { ...mlflow, experiment: "foxes" }]);
    expect((await load("")).trackers).toEqual([]);
  });

  test("are added by --track, which does not change one that the recipe has", async () => {
    const recipe = join(folder, "tracked.yaml");
    await writeFile(recipe, "trackers: [{ name: mlflow, experiment: foxes }]");
    const overrides = [added("mlflow"), added("tensorboard"), added("tensorboard")];
    const { trackers } = await loadSettings({ recipe, overrides });
    expect(trackers).toEqual([{ ...mlflow, experiment: "foxes" }, { name: "tensorboard" }]);
  });

  test("that are unknown or given twice are refused", async () => {
    const names = ["tensorboard", "mlflow", "wandb"];
    const setting = "trackers.0.name";
    await expect(load("trackers: [tensorbord]")).rejects.toThrow(
      inputError("setting-invalid", {
        setting,
        expected: names,
        found: "tensorbord",
        suggestion: "tensorboard",
        line: 1,
      }),
    );
    await expect(load("trackers: [{ name: wandb, api_key: abc }]")).rejects.toThrow(
      inputError("setting-unknown", { setting: "trackers.0.api_key" }),
    );
    await expect(load("trackers: [wandb, { name: wandb, mode: offline }]")).rejects.toThrow(
      inputError("setting-invalid", { setting: "trackers" }),
    );
    await expect(loadSettings({ overrides: [added("wndb")] })).rejects.toThrow(
      inputError("setting-invalid", { setting, expected: names, suggestion: "wandb", option: "--track" }),
    );
  });
});

describe("--set", () => {
  test("replaces a setting of the recipe and reads its value as YAML", async () => {
    const settings = await load("lora: { rank: 2 }", "lora.rank=8", "lora.targets=[to_q, to_v]", "threads=null");
    expect(settings.lora).toMatchObject({ rank: 8, targets: ["to_q", "to_v"] });
    expect(settings.threads).toBeNull();
  });

  test("of an estimator's name removes the settings of another estimator, and keeps those of the same", async () => {
    const recipe = "estimator: { truncation: { mode: gaussian, mean: 30 } }";
    const other = await load(recipe, "estimator.name=draft", "estimator.k=3");
    expect(other.estimator).toEqual({ name: "draft", k: 3 });
    const same = await load(recipe, "estimator.name=alignprop", "estimator.truncation.std=2");
    expect(same.estimator).toEqual({ name: "alignprop", truncation: { mode: "gaussian", mean: 30, std: 2 } });
    const short = await load("estimator: draft", "estimator=alignprop", "estimator.truncation.mode=uniform");
    expect(short.estimator).toMatchObject({ name: "alignprop", truncation: { mode: "uniform" } });
  });

  test("of a choice removes the settings that belong to the recipe's choice", async () => {
    const recipe = "estimator: { truncation: { mode: gaussian, mean: 30 } }";
    const settings = await load(recipe, "estimator.truncation.k=3", "estimator.truncation.mode=fixed");
    expect(settings.estimator).toEqual({ name: "alignprop", truncation: { mode: "fixed", k: 3 } });
    expect((await load("train: { epochs: 2 }", "train.steps=5")).train).toEqual({ steps: 5 });
  });

  test("that is wrong is reported with the option as it was typed", async () => {
    const typed = (set: string) => expect.objectContaining({ message: expect.stringMatching(`^--set ${set}: `) });
    const unknown = load("lora: { rank: 2 }", "lora.rnk=3");
    await expect(unknown).rejects.toThrow(
      inputError("setting-unknown", { setting: "lora.rnk", suggestion: "lora.rank", option: "--set" }),
    );
    await expect(unknown).rejects.toThrow(typed("lora.rnk=3"));
    const conflict = load("", "batch.samples_per_epoch=50", "batch.total=32");
    await expect(conflict).rejects.toThrow(
      inputError("settings-conflict", { setting: "batch.samples_per_epoch", suggestion: 64, option: "--set" }),
    );
    await expect(conflict).rejects.toThrow(typed("batch.total=32"));
  });

  test.each(["lora.rank", "=3", ".a=3", "a..b=3"])("refuses %s", (found) => {
    expect(() => parseSet(found)).toThrow(
      inputError("usage", { option: "--set", found, expected: "path.to.key=value" }),
    );
  });

  test("refuses a value that is not YAML", () => {
    const found = "lora.rank=[1";
    expect(() => parseSet(found)).toThrow(inputError("usage", { option: "--set", found }));
  });

  test("takes everything after the first equals sign as the value", () => {
    const { path, value }: Override = parseSet("prompts.template=x = {}");
    expect([path, value]).toEqual([["prompts", "template"], "x = {}"]);
  });
});

describe("settings written in code", () => {
  test("are completed as a recipe is", async () => {
    const settings = await settingsFrom({ reward: { name: "clip" }, train: { epochs: 1 } }, "mine");
    expect(settings).toMatchObject({ name: "mine", reward: { name: "clip" }, train: { steps: 2 } });
  });

  test("are checked as a recipe is", async () => {
    await expect(settingsFrom({ lora: { rank: 0 } })).rejects.toThrow(
      inputError("setting-invalid", { setting: "lora.rank", found: 0, expected: "at least 1", path: undefined }),
    );
  });
});
