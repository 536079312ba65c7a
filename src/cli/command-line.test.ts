import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { TINY_SD } from "../../test/tiny.js";
import { runCommandLine } from "./program.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-cli-"));
afterAll(() => rm(scratch, { recursive: true }));

/** Runs a command and keeps what it says. */
async function alignprop(...args: string[]) {
  const [printed, said]: [string[], string[]] = [[], []];
  const code = await runCommandLine(args, {
    isTTY: false,
    print: (line) => printed.push(line),
    say: (line) => said.push(line),
    update: (line) => said.push(line),
  });
  return { code, printed: printed.join("\n"), said: said.join("\n") };
}

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

const pictures = await mkdtemp(join(tmpdir(), "alignprop-cli-")).then((folder) => join(folder, "sheet.png"));
await mkdir(pictures);
afterAll(() => rm(dirname(pictures), { recursive: true }));

describe("wrong usage ends with 2 and a message that helps", () => {
  test.each([
    [["trian"], "unknown command 'trian'\n(Did you mean train?)"],
    [["train", "--stpes", "3"], "unknown option '--stpes'\n(Did you mean --steps?)"],
    [["train", "defalt"], 'unknown recipe "defalt"; did you mean default?'],
    [["train", "--steps", "many"], '--steps many: train.steps must be a number, found "many"'],
    [["train", "--reward", "aestetic"], "did you mean aesthetic?"],
    [
      ["train", "--track", "tensorbord"],
      "--track tensorbord: trackers.0.name must be one of tensorboard, mlflow, wandb",
    ],
    [["train", "--set", "trackers=[{ name: mlflow, uri: here }]"], "mlflow: its uri must be the address of a tracking"],
    [["train", "--set", "lora.rnk=2"], "--set lora.rnk=2: lora.rnk is not a setting; did you mean lora.rank?"],
    [["train", "--set", "lora"], "expected path.to.key=value"],
    [["train", "--model", "/no/such/model"], "model folder /no/such/model: not found"],
    [["train", "--out", scratch], "the folder is not empty"],
    [["train", "--resume", scratch], "this is not a run's folder"],
    [["train", "default", "--resume", scratch], "leave out the recipe default"],
    [["generate"], "nothing to draw; add --prompt TEXT, or --prompts with a text file or a list's name"],
    [["generate", "--prompts", "animal"], '--prompts: "animal" is not a list of prompts; did you mean "animals"?'],
    [["generate", "--prompt", "x", "--template", "y"], "--template y: must contain {} where the prompt goes"],
    [["evaluate", "--prompts", "/none.txt"], "prompts.eval: /none.txt: cannot be read: no such file"],
    [["train", "--negative-prompt", "x".repeat(5000)], "prompts.negative must be at most 4096 characters long"],
    [["generate", "--prompt", "x", "--count", "0"], "Give a whole number from 1 to 10000."],
    [["generate", "--prompt", "x", "--adapter", "/none"], "/none"],
    [["generate", "--prompt", "x", "--out", `${scratch}`], "the folder is not empty"],
    [["generate", "--prompt", "x", "--out", pictures], "this is a folder, although its name is a picture's"],
    [["evaluate", "--mix", "base"], "--mix: needs the adapter that is mixed"],
    [["evaluate", "--adapter", "a", "--mix", "base"], "--mix: needs the adapter's share"],
    [["evaluate", "--coefficient", "1"], "--coefficient: belongs to --mix"],
    [["mix", "base", "a", "--coefficient", "0.3", "--out", "o"], "try alignprop mix a base --coefficient 0.7"],
    [["mix", "a"], "required option '--coefficient <x...>' not specified"],
    [["mix", "a", "base", "--coefficient", "half", "--out", "o"], "Give a number from -100 to 100."],
    [["mix", "/none", "base", "--coefficient", "1", "--out", join(scratch, "o")], "/none"],
    [["plan", "a", "b"], "too many arguments"],
    [["train", "--raward=clip"], "unknown option '--raward=clip'\n(Did you mean --reward?)"],
    [
      ["train", "aesthetic", "--model", TINY_SD, "--set", "loading.offline=true"],
      "Download it once with network access, or give a local folder.",
    ],
    [["train", "hps", "--model", TINY_SD], "prompts.train: "],
    [
      ["evaluate", "evaluate-soup", "--model", TINY_SD, "--set", "loading.offline=true"],
      "model openai/clip-vit-large-patch14: is not a local folder and not in the cache",
    ],
    [
      ["train", "--set", "reward={ name: compressibility, weights: x }"],
      "reward.weights does not go with name: compressibility",
    ],
  ])("%j", async (args, message) => {
    const { code, printed, said } = await alignprop(...args);
    expect(said).toContain(message);
    expect(said).not.toMatch(/^\s+at /m);
    expect([code, printed]).toEqual([2, ""]);
  });

  test("and leaves no folder behind", async () => {
    expect((await readdir(scratch)).sort()).toEqual(["tiny.yaml", "wolves.txt"]);
  });
});

describe("help", () => {
  test.each(["train", "generate", "evaluate", "mix", "plan", "push"])(
    "for %s has examples and ends with 0",
    async (command) => {
      const { code, printed } = await alignprop(command, "--help");
      expect(code).toBe(0);
      expect(printed).toContain(`Examples:\n  alignprop ${command}`);
      expect(printed).toContain("--json");
    },
  );

  test("as a whole names the exit codes", async () => {
    expect((await alignprop("--help")).printed).toContain("Exit codes: 0 done, 1 failed while running, 2 wrong usage");
  });
});

describe("a run from the command line", () => {
  const out = join(scratch, "run");

  test("trains, says how it goes on stderr and what came of it on stdout", async () => {
    const { code, printed, said } = await alignprop(
      "train",
      tinyRecipe,
      "--out",
      out,
      "--json",
      "--track",
      "tensorboard",
    );
    expect(said).toMatch(/^step 1\/2 {2}reward .* loss .* grad .* GiB .*\/step .* left$/m);
    expect(said).toMatch(/^ {2}evaluation reward .*, after step 2$/m);
    expect(code).toBe(0);
    const result = JSON.parse(printed);
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

  test("goes on with --resume as if it had never stopped", async () => {
    const whole = join(scratch, "whole");
    expect((await alignprop("train", tinyRecipe, "--out", whole, "--steps", "3")).code).toBe(0);
    // Where it is watched from is no part of what is learnt.
    expect((await alignprop("train", "--resume", out, "--steps", "3", "--set", "trackers=[]")).code).toBe(0);
    const losses = async (run: string) =>
      (await readFile(join(run, "metrics.jsonl"), "utf8"))
        .trimEnd()
        .split("\n")
        .map((row) => JSON.parse(row).loss);
    expect(await losses(out)).toEqual(await losses(whole));
  });

  test("refuses to go on with other settings", async () => {
    const { code, said } = await alignprop("train", "--resume", out, "--steps", "4", "--set", "lora.rank=2");
    expect(said).toContain("lora.rank is 2 now and was 4");
    expect(code).toBe(2);
  });

  test("makes an adapter that generate, evaluate and mix take, in the run's own settings", async () => {
    const picture = join(scratch, "fox.png");
    const generated = await alignprop("generate", "--prompt", "fox", "--adapter", out, "--out", picture, "--json");
    expect(generated.code).toBe(0);
    expect(JSON.parse(generated.printed)).toEqual({ pictures: [{ prompt: "fox", seed: 0, file: picture }] });
    expect((await readFile(picture)).subarray(1, 4).toString()).toBe("PNG");

    const evaluated = await alignprop("evaluate", "--adapter", out, "--json");
    const { reward, samples, mean } = JSON.parse(evaluated.printed);
    expect([reward, samples.length]).toEqual(["compressibility", 2]);

    const kept = join(scratch, "kept");
    const asked = [
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
    const others = await alignprop("evaluate", "--adapter", out, ...asked, "--out", kept, "--json");
    expect((await readdir(kept)).sort()).toEqual([
      "000_a-wolf.png",
      "001_a-wolf.png",
      "002_a-grey-wolf.png",
      "003_a-grey-wolf.png",
      "evaluation.json",
      "index.json",
    ]);
    const index = JSON.parse(await readFile(join(kept, "index.json"), "utf8"));
    expect(index.map(({ prompt, seed }: { prompt: string; seed: number }) => [prompt, seed])).toEqual([
      ["a wolf", 7],
      ["a wolf", 8],
      ["a grey wolf", 9],
      ["a grey wolf", 10],
    ]);
    const { samples: printed, ...summary } = JSON.parse(others.printed);
    expect(JSON.parse(await readFile(join(kept, "evaluation.json"), "utf8"))).toEqual(summary);
    expect(summary).toMatchObject({ reward: "compressibility", pictures: 4, adapter: out, negative_prompt: "cat" });
    expect(printed[3]).toEqual({ ...index[3], file: join(kept, index[3].file) });
    const rewards = printed.map(({ reward }: { reward: number }) => reward);
    const average = rewards.reduce((sum: number, reward: number) => sum + reward, 0) / 4;
    expect(summary.mean).toBeCloseTo(average, 6);
    expect(summary.std).toBeCloseTo(
      Math.sqrt(rewards.reduce((s: number, r: number) => s + (r - average) ** 2, 0) / 4),
      6,
    );

    const drawn = join(scratch, "drawn");
    const wanted = ["--prompts", wolves, "--template", "a {}", "--negative-prompt", "cat", "--seed", "7"];
    expect((await alignprop("generate", "--adapter", out, ...wanted, "--out", drawn)).code).toBe(0);
    // The same prompt, seed and adapter: the very picture that was evaluated.
    expect(await readFile(join(drawn, "000_a-wolf.png"))).toEqual(await readFile(join(kept, "000_a-wolf.png")));
    expect((await readdir(drawn)).sort()).toEqual(["000_a-wolf.png", "001_a-grey-wolf.png", "index.json"]);

    const half = join(scratch, "half");
    expect((await alignprop("mix", out, "base", "--coefficient", "0", "--out", half)).code).toBe(0);
    expect((await readdir(half)).sort()).toEqual(["half.kohya.safetensors", "pytorch_lora_weights.safetensors"]);

    const slide = join(scratch, "slide");
    const several = ["--coefficient", "0", "0.5", "--rank", "1", "--prompt", "fox", "--json"];
    const mixed = await alignprop("mix", out, "base", "--out", slide, ...several);
    expect(JSON.parse(mixed.printed)).toMatchObject({ coefficients: [0, 0.5], strip: join(slide, "strip.png") });
    expect((await readdir(slide)).sort()).toEqual(["0", "0.5", "strip.png"]);
    expect(await readdir(join(slide, "0.5"))).toContain("slide-0.5.kohya.safetensors");
    expect((await readFile(join(slide, "strip.png"))).subarray(1, 4).toString()).toBe("PNG");

    const without = await alignprop("evaluate", tinyRecipe, "--json");
    const nothing = await alignprop("evaluate", tinyRecipe, "--adapter", half, "--json");
    expect(JSON.parse(nothing.printed).mean).toBeCloseTo(JSON.parse(without.printed).mean, 5);
    expect(mean).not.toBe(JSON.parse(without.printed).mean);
  });

  test("is planned without being run", async () => {
    const { code, printed } = await alignprop("plan", tinyRecipe, "--no-calibrate", "--json");
    expect(code).toBe(0);
    expect(JSON.parse(printed)).toMatchObject({ steps: 2, samples_per_step: 2, unet_forward_calls_per_step: 3 });
  });
});
