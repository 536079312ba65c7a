import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { alignprop, errorOf } from "../../test/command-line.js";
import { TINY_SD } from "../../test/tiny.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-cli-"));
afterAll(() => rm(scratch, { recursive: true }));

const tinyRecipe = join(scratch, "tiny.yaml");
await writeFile(
  tinyRecipe,
  `model: ${JSON.stringify(TINY_SD)}
reward: compressibility
loss: { form: maximize }
threads: 1
sampling: { steps: 3 }
estimator: { truncation: { mode: fixed, k: 1 } }
batch: { samples_per_epoch: 2, total: 2, per_device: 2 }
prompts: { train: [cat, dog], eval: [fox, wolf] }
train: { steps: 2 }
evaluation: { every: 2, batch: 2 }
`,
);

const wolves = join(scratch, "wolves.txt");
await writeFile(wolves, "wolf\n\ngrey wolf\n");

const sheet = await mkdtemp(join(tmpdir(), "alignprop-cli-")).then((folder) => join(folder, "sheet.png"));
await mkdir(sheet);
afterAll(() => rm(dirname(sheet), { recursive: true }));

describe("bad input ends with exit code 2, and with a code and facts", () => {
  const offline = ["--model", TINY_SD, "--set", "loading.offline=true"];

  test.each<[args: string[], code: string, facts: Record<string, unknown>]>([
    // Found by commander
    [["trian"], "usage", { found: "trian", suggestion: "train" }],
    [["train", "--stpes", "3"], "usage", { option: "--stpes", suggestion: "--steps" }],
    [["train", "--raward=clip"], "usage", { option: "--raward", suggestion: "--reward" }],
    [["reward", "check", "--imag=a.png", "m.onnx"], "usage", { option: "--imag", suggestion: "--image" }],
    [["plan", "a", "b"], "usage", { command: "plan" }],
    [["push"], "usage", { argument: "adapter" }],
    [["mix", "a"], "usage", { option: "--coefficient" }],
    [["mix", "a", "base", "--coefficient", "half", "--out", "o"], "usage", { option: "--coefficient", found: "half" }],
    [["generate", "--prompt", "x", "--count", "0"], "usage", { option: "--count", found: "0" }],
    // Options that do not go together
    [["train", "default", "--resume", scratch], "usage", { option: "--resume", path: scratch, conflicts: ["recipe"] }],
    [
      ["train", "--adapter", "a", "--out", "o", "--resume", "r"],
      "usage",
      { option: "--resume", path: "r", conflicts: ["--out", "--adapter"] },
    ],
    [["generate"], "usage", { missing: ["--prompt", "--prompts"] }],
    [["generate", "--prompt", "x", "--template", "y"], "usage", { option: "--template", found: "y", expected: "{}" }],
    [["evaluate", "--mix", "base"], "usage", { option: "--mix", found: "base", missing: "--adapter" }],
    [
      ["evaluate", "--adapter", "a", "--mix", "base"],
      "usage",
      { option: "--mix", found: "base", missing: "--coefficient" },
    ],
    [["evaluate", "--coefficient", "1"], "usage", { option: "--coefficient", found: 1, missing: "--mix" }],
    [
      ["mix", "base", "my run", "--coefficient", "0.3", "--out", "o"],
      "usage",
      { argument: "a", suggestion: "npx alignprop mix 'my run' base --coefficient 0.7 --out o" },
    ],
    // Recipes, settings and prompts
    [["train", "defalt"], "recipe-not-found", { recipe: "defalt", suggestion: "default" }],
    [["train", "--steps", "many"], "setting-invalid", { option: "--steps", setting: "train.steps", found: "many" }],
    [
      ["train", "--reward", "aestetic"],
      "setting-invalid",
      { option: "--reward", setting: "reward.name", found: "aestetic", suggestion: "aesthetic" },
    ],
    [
      ["train", "--track", "tensorbord"],
      "setting-invalid",
      { option: "--track", setting: "trackers.0.name", expected: ["tensorboard", "mlflow", "wandb"] },
    ],
    [
      ["train", "--set", "trackers=[{ name: mlflow, uri: here }]"],
      "setting-invalid",
      { setting: "trackers", tracker: "mlflow", expected: "http or https address" },
    ],
    [["train", "--set", "lora.rnk=2"], "setting-unknown", { setting: "lora.rnk", suggestion: "lora.rank" }],
    [["train", "--set", "lora"], "usage", { option: "--set", found: "lora", expected: "path.to.key=value" }],
    [
      ["train", "--negative-prompt", "x".repeat(5000)],
      "setting-invalid",
      { option: "--negative-prompt", setting: "prompts.negative", expected: expect.stringContaining("4096") },
    ],
    [
      ["train", "--set", "reward={ name: compressibility, weights: x }"],
      "settings-conflict",
      { setting: "reward.weights", with: "name: compressibility" },
    ],
    [["generate", "--prompts", "animal"], "prompts-invalid", { found: "animal", suggestion: "animals" }],
    [["evaluate", "--prompts", "/none.txt"], "file-not-found", { setting: "prompts.eval", path: "/none.txt" }],
    [
      ["train", "hps", "--model", TINY_SD],
      "file-not-found",
      { setting: "prompts.train", path: expect.stringContaining(".txt") },
    ],
    // Models, adapters and folders
    [["train", "--model", "/no/such/model"], "model-not-found", { path: "/no/such/model" }],
    [["train", "aesthetic", ...offline], "hub-unreachable", { model: "openai/clip-vit-large-patch14", offline: true }],
    [
      ["evaluate", "evaluate-soup", ...offline],
      "hub-unreachable",
      { model: "openai/clip-vit-large-patch14", offline: true },
    ],
    [["generate", "--prompt", "x", "--adapter", "/none"], "file-not-found", { path: "/none" }],
    [["mix", "/none", "base", "--coefficient", "1", "--out", join(scratch, "o")], "file-not-found", { path: "/none" }],
    [["train", "--resume", scratch], "run-not-found", { option: "--resume", path: scratch, expected: "config.yaml" }],
    [["train", "--out", scratch], "output-exists", { option: "--out", path: scratch, entries: 2 }],
    [["generate", "--prompt", "x", "--out", scratch], "output-exists", { option: "--out", path: scratch, entries: 2 }],
    [["generate", "--prompt", "x", "--out", sheet], "output-exists", { option: "--out", path: sheet }],
  ])("%j", async (args, code, facts) => {
    expect(errorOf(await alignprop(...args, "--json"))).toMatchObject({ code, ...facts });
  });

  test("and leaves no folder behind", async () => {
    expect((await readdir(scratch)).sort()).toEqual(["tiny.yaml", "wolves.txt"]);
  });

  test.each([
    [["trian"], ["trian", "Did you mean train?"]],
    [
      ["train", "--raward=clip"],
      ["--raward", "Did you mean --reward?"],
    ],
    [["generate"], ["Add --prompt"]],
    [
      ["train", "--out", scratch],
      [scratch, "not empty", "name another folder"],
    ],
    [
      ["generate", "--prompt", "x", "--count", "0"],
      ["--count", "Give a whole number from 1 to 10000."],
    ],
  ])("without --json, %j prints only a message, with the remedy", async (args, words) => {
    const { code, stdout, stderr } = await alignprop(...args);
    expect([code, stdout]).toEqual([2, ""]);
    for (const word of words) expect(stderr).toContain(word);
  });

  test("a command that is not given is reported below the help", async () => {
    const { code, stderr } = await alignprop();
    expect(code).toBe(2);
    expect(stderr).toContain("Commands:");
    expect(stderr).toMatch(/^error: alignprop needs a command/m);
  });
});

describe("help", () => {
  test.each(["train", "generate", "evaluate", "mix", "plan", "score", "push", "reward check"])(
    "for %s has examples to paste and ends with 0",
    async (command) => {
      const { code, stdout } = await alignprop(...command.split(" "), "--help");
      expect(code).toBe(0);
      expect(stdout).toContain(`Examples:\n  npx alignprop ${command}`);
      expect(stdout).toContain("--json");
    },
  );

  test("as a whole names the exit codes", async () => {
    expect((await alignprop("--help")).stdout).toMatch(/Exit codes: 0 .*, 1 .*, 2 .*/);
  });
});

describe("a run from the command line", () => {
  const out = join(scratch, "run");

  test("trains, with progress on stderr and the result on stdout", async () => {
    const { code, stdout, stderr } = await alignprop(
      "train",
      tinyRecipe,
      "--out",
      out,
      "--json",
      "--track",
      "tensorboard",
    );
    expect(stderr).toMatch(/^step 1\/2 {2}reward .* loss .* grad .* GiB .*\/step .* left$/m);
    expect(stderr).toMatch(/^ {2}evaluation reward .*, after step 2$/m);
    expect(code).toBe(0);
    const result = JSON.parse(stdout);
    expect(result).toMatchObject({
      run: out,
      step: 2,
      steps: 2,
      interrupted: false,
      report: join(out, "report.html"),
      trackers: { tensorboard: join(out, "tensorboard") },
    });
    expect(await readdir(join(out, "tensorboard"))).toEqual([expect.stringMatching(/^events\.out\.tfevents\./)]);
    expect(result.checkpoint).toBe(join(out, "checkpoints/step-000002"));
    expect(result.after.step).toBe(2);
    const rows = (await readFile(join(out, "metrics.jsonl"), "utf8")).trimEnd().split("\n");
    expect(JSON.parse(rows[1] as string)).toEqual(result.last_step);
  });

  test("continues with --resume as if it had never stopped", async () => {
    const whole = join(scratch, "whole");
    expect((await alignprop("train", tinyRecipe, "--out", whole, "--steps", "3")).code).toBe(0);
    // Trackers do not affect the training, so a resumed run may change them.
    expect((await alignprop("train", "--resume", out, "--steps", "3", "--set", "trackers=[]")).code).toBe(0);
    const losses = async (run: string) =>
      (await readFile(join(run, "metrics.jsonl"), "utf8"))
        .trimEnd()
        .split("\n")
        .map((row) => JSON.parse(row).loss);
    expect(await losses(out)).toEqual(await losses(whole));
  });

  test("refuses to continue with other settings", async () => {
    const refused = await alignprop("train", "--resume", out, "--steps", "4", "--set", "lora.rank=2", "--json");
    expect(errorOf(refused)).toMatchObject({ code: "run-mismatch", settings: ["lora.rank"] });
  });

  test("makes an adapter that generate, evaluate and mix use, with the settings of the run", async () => {
    const image = join(scratch, "fox.png");
    const generated = await alignprop("generate", "--prompt", "fox", "--adapter", out, "--out", image, "--json");
    expect(generated.code).toBe(0);
    expect(JSON.parse(generated.stdout)).toEqual({ images: [{ prompt: "fox", seed: 0, file: image }] });
    expect((await readFile(image)).subarray(1, 4).toString()).toBe("PNG");

    const evaluated = await alignprop("evaluate", "--adapter", out, "--json");
    const { reward, samples, mean } = JSON.parse(evaluated.stdout);
    expect([reward, samples.length]).toEqual(["compressibility", 2]);

    const evaluation = join(scratch, "evaluation");
    const options = [
      "--prompts",
      wolves,
      "--template",
      "a {}",
      "--negative-prompt",
      "cat",
      "--count",
      "2",
      "--seed",
      "7",
    ];
    const others = await alignprop("evaluate", "--adapter", out, ...options, "--out", evaluation, "--json");
    expect((await readdir(evaluation)).sort()).toEqual([
      "000_a-wolf.png",
      "001_a-wolf.png",
      "002_a-grey-wolf.png",
      "003_a-grey-wolf.png",
      "evaluation.json",
      "index.json",
    ]);
    const index = JSON.parse(await readFile(join(evaluation, "index.json"), "utf8"));
    expect(index.map(({ prompt, seed }: { prompt: string; seed: number }) => [prompt, seed])).toEqual([
      ["a wolf", 7],
      ["a wolf", 8],
      ["a grey wolf", 9],
      ["a grey wolf", 10],
    ]);
    const { samples: printed, ...summary } = JSON.parse(others.stdout);
    expect(JSON.parse(await readFile(join(evaluation, "evaluation.json"), "utf8"))).toEqual(summary);
    expect(summary).toMatchObject({ reward: "compressibility", images: 4, adapter: out, negative_prompt: "cat" });
    expect(printed[3]).toEqual({ ...index[3], file: join(evaluation, index[3].file) });
    const rewards = printed.map(({ reward }: { reward: number }) => reward);
    const average = rewards.reduce((sum: number, reward: number) => sum + reward, 0) / 4;
    expect(summary.mean).toBeCloseTo(average, 6);
    expect(summary.std).toBeCloseTo(
      Math.sqrt(rewards.reduce((s: number, r: number) => s + (r - average) ** 2, 0) / 4),
      6,
    );

    const generatedImages = join(scratch, "generated");
    const same = ["--prompts", wolves, "--template", "a {}", "--negative-prompt", "cat", "--seed", "7"];
    expect((await alignprop("generate", "--adapter", out, ...same, "--out", generatedImages)).code).toBe(0);
    // The same prompt, seed and adapter give the image that was evaluated.
    expect(await readFile(join(generatedImages, "000_a-wolf.png"))).toEqual(
      await readFile(join(evaluation, "000_a-wolf.png")),
    );
    expect((await readdir(generatedImages)).sort()).toEqual(["000_a-wolf.png", "001_a-grey-wolf.png", "index.json"]);

    const half = join(scratch, "half");
    expect((await alignprop("mix", out, "base", "--coefficient", "0", "--out", half)).code).toBe(0);
    expect((await readdir(half)).sort()).toEqual(["half.kohya.safetensors", "pytorch_lora_weights.safetensors"]);

    const slide = join(scratch, "slide");
    const several = ["--coefficient", "0", "0.5", "--rank", "1", "--prompt", "fox", "--json"];
    const mixed = await alignprop("mix", out, "base", "--out", slide, ...several);
    expect(JSON.parse(mixed.stdout)).toMatchObject({ coefficients: [0, 0.5], strip: join(slide, "strip.png") });
    expect((await readdir(slide)).sort()).toEqual(["0", "0.5", "strip.png"]);
    expect(await readdir(join(slide, "0.5"))).toContain("slide-0.5.kohya.safetensors");
    expect((await readFile(join(slide, "strip.png"))).subarray(1, 4).toString()).toBe("PNG");

    const without = await alignprop("evaluate", tinyRecipe, "--json");
    const nothing = await alignprop("evaluate", tinyRecipe, "--adapter", half, "--json");
    expect(JSON.parse(nothing.stdout).mean).toBeCloseTo(JSON.parse(without.stdout).mean, 5);
    expect(mean).not.toBe(JSON.parse(without.stdout).mean);
  });

  test("warns about a setting with an old name", async () => {
    const { code, stdout, stderr } = await alignprop(
      "plan",
      tinyRecipe,
      "--no-calibrate",
      "--set",
      "train.updates=5",
      "--json",
    );
    expect(code).toBe(0);
    expect(stderr).toMatch(/^warning: .*train\.updates.*train\.steps/m);
    expect(JSON.parse(stdout)).toMatchObject({ steps: 5 });
  });

  test("can be planned without being run", async () => {
    const { code, stdout } = await alignprop("plan", tinyRecipe, "--no-calibrate", "--json");
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ steps: 2, samples_per_step: 2, unet_forward_calls_per_step: 3 });
  });
});
