import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { InputError } from "../errors/index.js";
import { loadSettings, type Override, parseSet, recipeNames, settingsFrom } from "./load.js";

const folder = await mkdtemp(join(tmpdir(), "alignprop-settings-"));
afterAll(() => rm(folder, { recursive: true }));

const shipped = await recipeNames();

/** The settings of a recipe with this text; its name is unique so that tests don't meet. */
let written = 0;
async function load(text: string, ...sets: string[]) {
  const file = join(folder, `recipe-${written++}.yaml`);
  await writeFile(file, text);
  return loadSettings({ recipe: file, overrides: sets.map(parseSet) });
}

/** What is said of it, without the folder. */
async function complaint(text: string, ...sets: string[]): Promise<string> {
  const error = await load(text, ...sets).then(
    () => new Error("accepted"),
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(InputError);
  return (error as Error).message.replaceAll(`${folder}/`, "").replaceAll(/recipe-\d+/g, "recipe");
}

describe("a recipe", () => {
  test.each(shipped)("%s that ships with the package is valid", async (name) => {
    const absent: string[] = [];
    const settings = await loadSettings({ recipe: name, absentPrompts: (message) => absent.push(message) });
    expect(settings.name).toBe(name);
    expect(absent).toHaveLength(name.startsWith("hps") ? 2 : 0);
  });

  test("whose prompts are the HPSv2 benchmark's says where they are to be had", async () => {
    await expect(loadSettings({ recipe: "hps" })).rejects.toThrow(
      /prompts\.train: .*hps_v2_all\.txt: cannot read this.*not part of this package.*assets\/hps_v2_all\.txt .*--prompts/,
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
      // The reference evaluates 40 pictures.
      expect(Math.abs(prompts.eval.length * evaluation.seeds_per_prompt - 40)).toBeLessThanOrEqual(5);
    }
  });

  test("whose text is a word is that choice's name", async () => {
    expect((await load("reward: clip")).reward).toMatchObject({ name: "clip", clip: "models/rewards/clip" });
  });

  test("may be empty", async () => {
    expect((await load("")).batch.total).toBe(128);
  });

  test("names the run after its file, but for what a run's name cannot hold", async () => {
    for (const [file, name] of [
      ["my recipe (2).yaml", "my-recipe-2-"],
      [".hidden.yml", "hidden"],
      ["größe.yaml", "gr-e"],
      [`${"long".repeat(50)}.yaml`, "long".repeat(25)],
    ] as const) {
      await writeFile(join(folder, file), "");
      const settings = await loadSettings({ recipe: join(folder, file) });
      expect(settings.name).toBe(name);
      // What the run's own config.yaml will say.
      expect((await settingsFrom({ name: settings.name })).name).toBe(name);
    }
  });

  test("gives epochs as steps", async () => {
    expect((await load("train: { epochs: 3 }")).train).toEqual({ steps: 6 });
  });

  test("resolves lists of prompts by name and keeps lists as they are", async () => {
    const { prompts } = await load('prompts: { train: held-out-animals, eval: [a fox, "two: cats"] }');
    expect(prompts.train).toContain("octopus");
    expect(prompts.eval).toEqual(["a fox", "two: cats"]);
  });
});

describe("wrong settings", () => {
  test("are all told at once, with their line and the nearest key", async () => {
    const text = ["seed: -1", "optimizer:", "  learning_rate: fast", "  max_grad_nrm: 3", "rewrd: clip"].join("\n");
    expect(await complaint(text)).toBe(
      [
        "4 settings are wrong:",
        "  recipe.yaml:1: seed must be at least 0, found -1",
        '  recipe.yaml:3: optimizer.learning_rate must be a number, found "fast"',
        "  recipe.yaml:4: optimizer.max_grad_nrm is no setting; did you mean optimizer.max_grad_norm?",
        "  recipe.yaml:5: rewrd is no setting; did you mean reward?",
      ].join("\n"),
    );
  });

  test.each([
    ["reward: aestetic", "reward.name must be one of aesthetic, hps, pickscore, image-reward, clip, compressibility"],
    ["reward: aestetic", "did you mean aesthetic?"],
    ["device: gpu", 'device must be one of cpu, cuda, webgpu, found "gpu"'],
    ["learning_rate: 1", "learning_rate is no setting; did you mean optimizer.learning_rate?"],
    ["sampling: 50", "sampling must be a mapping (key: value), found 50"],
    ["sampling: { steps: 2.5 }", "sampling.steps must be a whole number, found 2.5"],
    ["optimizer: { beta1: 1 }", "optimizer.beta1 must be less than 1, found 1"],
    ["loss: { target: .inf }", "loss.target must be a number, found Infinity"],
    ["prompts: { train: [] }", "prompts.train must be a list of at least 1, found []"],
    ["prompts: { template: a photo }", 'prompts.template: must contain {} where the prompt goes, found "a photo"'],
    ["prompts: { eval: held-out-animal }", 'did you mean "held-out-animals"?'],
    ["train: { steps: 3, epochs: 2 }", "train: steps and epochs are both given; keep one"],
    [
      "estimator: dddpo",
      "estimator.name must be one of alignprop, draft, draft-lv, refl, adjoint-matching, ddpo, rwr, module, found",
    ],
    ["estimator: ddpo", "ddpo learns from the noise of each step, but sampling.eta is 0; set sampling.eta: 1"],
    ["estimator: adjoint-matching", "needs DDPM's noise, but sampling.eta is 0; set sampling.eta: 1"],
    ["estimator: { name: draft, k: 51 }", "estimator.k is 51, but sampling.steps is 50; give at most 50"],
    ["estimator: { name: draft, noises: 2 }", "estimator.noises does not go with name: draft"],
    ["estimator: { name: refl, high: 50 }", "estimator.high is 50, but the last of 50 steps is 49; give at most that"],
    ["estimator: { name: rwr, updates: 3 }", "estimator.updates is 3, which does not divide batch.total 128"],
    ["kl: { weight: -1 }", "kl.weight must be at least 0, found -1"],
    ["estimator: { truncation: { mode: fixed, mean: 3 } }", "estimator.truncation.mean does not go with mode: fixed"],
    [
      "estimator: { truncation: { mode: fixed, k: 51 } }",
      "estimator.truncation.k is 51, but sampling.steps is 50; give at most 50",
    ],
    ["batch: { total: 30 }", "batch.total 30 is not a multiple of 4 (batch.per_device); try batch.total 32"],
  ])("%s: the message says %s", async (text, message) => {
    expect(await complaint(text)).toContain(message);
  });

  test.each([
    ["seed: 1\nseed: 2", "Map keys must be unique"],
    ["a: &x [1]\nb: *x", "aliases (*x) are not allowed"],
    ["[1, 2]", "expected a mapping of settings (key: value)"],
    ["[".repeat(100_000), "lists within lists, more than 64 deep"],
    [`- ${"- ".repeat(100_000)}`, "lists within lists, more than 64 deep"],
    ["seed: 1\n---\nseed: 2", "not valid YAML"],
    ["seed: [1", "not valid YAML"],
  ])("are refused in the form %.20j", async (text, message) => {
    expect(await complaint(text)).toContain(message);
  });

  test("in a file that is no text are refused without printing it", async () => {
    const file = join(folder, "picture.yaml");
    await writeFile(file, new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0xff, 0xfe]));
    await expect(loadSettings({ recipe: file })).rejects.toThrow(/is not UTF-8 text/);
  });

  test("cannot reach an object's prototype", async () => {
    expect(await complaint("", "__proto__.polluted=1")).toContain("__proto__ is no setting");
    expect(Object.prototype).not.toHaveProperty("polluted");
  });
});

describe("a recipe's name", () => {
  test("that is unknown gets the nearest one", async () => {
    await expect(loadSettings({ recipe: "defalt" })).rejects.toThrow(
      /unknown recipe "defalt"; did you mean default\? \(recipes: adjoint-matching, aesthetic, /,
    );
  });

  test("with a slash or .yaml is a file, which must be there", async () => {
    await expect(loadSettings({ recipe: join(folder, "none.yaml") })).rejects.toThrow(/no such recipe file/);
    await expect(loadSettings({ recipe: `${folder}/` })).rejects.toThrow(/not a file/);
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

  test("are added to by --track, which leaves one with settings as it is", async () => {
    const recipe = join(folder, "tracked.yaml");
    await writeFile(recipe, "trackers: [{ name: mlflow, experiment: foxes }]");
    const overrides = [added("mlflow"), added("tensorboard"), added("tensorboard")];
    const { trackers } = await loadSettings({ recipe, overrides });
    expect(trackers).toEqual([{ ...mlflow, experiment: "foxes" }, { name: "tensorboard" }]);
  });

  test("that are not known, or known twice, are refused", async () => {
    expect(await complaint("trackers: [tensorbord]")).toBe(
      'recipe.yaml:1: trackers.0.name must be one of tensorboard, mlflow, wandb, found "tensorbord"; did you mean tensorboard?',
    );
    expect(await complaint("trackers: [{ name: wandb, api_key: abc }]")).toMatch(/trackers.0.api_key is no setting/);
    expect(await complaint("trackers: [wandb, { name: wandb, mode: offline }]")).toMatch(/name each tracker once/);
    const twice = loadSettings({ overrides: [added("wndb")] });
    await expect(twice).rejects.toThrow(/^--track wndb: trackers.0.name must be one of .* did you mean wandb\?$/);
  });
});

describe("--set", () => {
  test("goes over the recipe and reads its value as YAML", async () => {
    const settings = await load("lora: { rank: 2 }", "lora.rank=8", "lora.targets=[to_q, to_v]", "threads=null");
    expect(settings.lora).toMatchObject({ rank: 8, targets: ["to_q", "to_v"] });
    expect(settings.threads).toBeNull();
  });

  test("an estimator by its name sets the old one's keys aside, and keeps them where it is the same", async () => {
    const recipe = "estimator: { truncation: { mode: gaussian, mean: 30 } }";
    const other = await load(recipe, "estimator.name=draft", "estimator.k=3");
    expect(other.estimator).toEqual({ name: "draft", k: 3 });
    const same = await load(recipe, "estimator.name=alignprop", "estimator.truncation.std=2");
    expect(same.estimator).toEqual({ name: "alignprop", truncation: { mode: "gaussian", mean: 30, std: 2 } });
    const short = await load("estimator: draft", "estimator=alignprop", "estimator.truncation.mode=uniform");
    expect(short.estimator).toMatchObject({ name: "alignprop", truncation: { mode: "uniform" } });
  });

  test("of a choice sets aside what belonged to the recipe's", async () => {
    const recipe = "estimator: { truncation: { mode: gaussian, mean: 30 } }";
    const settings = await load(recipe, "estimator.truncation.k=3", "estimator.truncation.mode=fixed");
    expect(settings.estimator).toEqual({ name: "alignprop", truncation: { mode: "fixed", k: 3 } });
    expect((await load("train: { epochs: 2 }", "train.steps=5")).train).toEqual({ steps: 5 });
  });

  test("that is wrong is quoted as it was typed", async () => {
    expect(await complaint("lora: { rank: 2 }", "lora.rnk=3")).toBe(
      "--set lora.rnk=3: lora.rnk is no setting; did you mean lora.rank?",
    );
    expect(await complaint("", "batch.total=30")).toMatch(/^--set batch.total=30: batch.total 30 is not a multiple/);
  });

  test.each(["lora.rank", "=3", ".a=3", "a..b=3"])("refuses %s", (argument) => {
    expect(() => parseSet(argument)).toThrow(/expected path.to.key=value/);
  });

  test("keeps everything behind the first equals sign", () => {
    const { path, value }: Override = parseSet("prompts.template=x = {}");
    expect([path, value]).toEqual([["prompts", "template"], "x = {}"]);
  });
});

describe("settings written in code", () => {
  test("are completed as a recipe is", async () => {
    const settings = await settingsFrom({ reward: { name: "clip" }, train: { epochs: 1 } }, "mine");
    expect(settings).toMatchObject({ name: "mine", reward: { name: "clip" }, train: { steps: 2 } });
  });

  test("are judged as a recipe is", async () => {
    await expect(settingsFrom({ lora: { rank: 0 } })).rejects.toThrow(
      "settings: lora.rank must be at least 1, found 0",
    );
  });
});
