/**
 * Bad input to the whole program: exit code 2, one error with a code and facts, and no partial output. The program runs in
 * this process, which is faster than a process per case; src/cli/process.test.ts starts it.
 */
import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import * as yaml from "yaml";
import { fromNumbers, type HostTensor } from "../src/tensor/host.js";
import { openSafetensors, writeSafetensors } from "../src/weights/safetensors.js";
import { readTensor } from "../src/weights/source.js";
import { alignprop, errorOf } from "./command-line.js";
import { TINY_RECIPE, TINY_SD } from "./tiny.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-bad-"));
const before = process.cwd();
process.chdir(scratch);
afterAll(async () => {
  process.chdir(before);
  await rm(scratch, { recursive: true });
});

const recipe = join(scratch, "tiny.yaml");
const settings = {
  ...TINY_RECIPE,
  prompts: { train: ["cat", "dog"], eval: ["two cats"], template: "a {}" },
  evaluation: { every: 100, batch: 2 },
  checkpoint: { every: 1 },
  train: { steps: 1 },
};
await writeFile(recipe, yaml.stringify(settings));

let made = 0;
/** A path that nothing has used yet. */
const fresh = (name: string) => join(scratch, `${name}-${made++}`);

type Facts = Readonly<Record<string, unknown>>;

/** The command must fail with this code and at least these facts. */
async function expectError(args: readonly string[], code: string, facts: Facts): Promise<void> {
  expect(errorOf(await alignprop(...args, "--json"))).toMatchObject({ code, ...facts });
}

/** `alignprop train` on the recipe must fail with this code and these facts, and create no output folder. */
async function expectRefused(args: readonly string[], code: string, facts: Facts): Promise<void> {
  const out = fresh("out");
  await expectError(["train", recipe, "--out", out, ...args], code, facts);
  await expect(readdir(out)).rejects.toThrow(/ENOENT/);
}

/** A copy of the tiny model, changed by `breakIt`. */
async function brokenModel(breakIt: (folder: string) => Promise<void>): Promise<string> {
  const folder = fresh("model");
  await cp(TINY_SD, folder, { recursive: true });
  await breakIt(folder);
  return folder;
}

const UNET = "unet/diffusion_pytorch_model.safetensors";

async function tensorsOf(file: string): Promise<Map<string, HostTensor>> {
  const source = await openSafetensors(file);
  const tensors = new Map<string, HostTensor>();
  for (const name of source.names()) tensors.set(name, await readTensor(source.get(name) as never));
  return tensors;
}

/** A copy of the tiny model in which one tensor of the U-Net is replaced. */
function withTensor(name: string, change: (tensor: HostTensor) => HostTensor) {
  return brokenModel(async (folder) => {
    const tensors = await tensorsOf(join(folder, UNET));
    tensors.set(name, change(tensors.get(name) as HostTensor));
    await writeSafetensors(join(folder, UNET), tensors);
  });
}

async function withHeader(change: (header: Record<string, { data_offsets: [number, number] }>) => void) {
  return brokenModel(async (folder) => {
    const file = join(folder, UNET);
    const bytes = await readFile(file);
    const length = Number(bytes.readBigUInt64LE());
    const header = JSON.parse(bytes.subarray(8, 8 + length).toString());
    change(header);
    const text = Buffer.from(JSON.stringify(header).padEnd(length));
    expect(text.length).toBe(length);
    text.copy(bytes, 8);
    await writeFile(file, bytes);
  });
}

async function withConfig(part: string, changes: Record<string, unknown>): Promise<string> {
  return brokenModel(async (folder) => {
    const file = join(folder, part, "config.json");
    const config = JSON.parse(await readFile(file, "utf8"));
    await writeFile(file, JSON.stringify({ ...config, ...changes }));
  });
}

/** The content of every file in `folder` and its subfolders, as base64. */
async function contents(folder: string): Promise<Record<string, string>> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  const read = files.map(async (file) => [relative(folder, file), (await readFile(file)).toString("base64")] as const);
  return Object.fromEntries((await Promise.all(read)).sort());
}

describe("estimators and reward programs of the user", () => {
  test("are checked before anything is written", async () => {
    await expectRefused(["--set", "estimator=./none.js"], "file-not-found", { path: "./none.js" });
    const half = 'export default { kind: "direct", name: "half", usesRewardGradient: true };';
    await writeFile(join(scratch, "half.mjs"), half);
    await expectRefused(["--set", "estimator=./half.mjs"], "estimator-invalid", {
      path: "./half.mjs",
      problem: expect.stringContaining("mask"),
    });
    const program = (command: string) => ["--set", `reward={ name: program, command: ${command} }`];
    await expectRefused(program("[no-such-scorer]"), "reward-invalid", { program: "no-such-scorer" });
    await expectRefused(program("[node, scorer.js]"), "reward-no-gradient", { reward: "node" });
    await expectRefused(["--set", "estimator=ddpo"], "settings-conflict", {
      setting: "sampling.eta",
      with: "estimator",
      found: 0,
      expected: 1,
    });
  });
});

describe("a model folder", () => {
  test("that is missing", () =>
    expectRefused(["--model", "./nowhere/sd"], "model-not-found", { path: join(scratch, "nowhere/sd") }));

  test("that could be a model of the hub, with --offline", () =>
    expectRefused(["--model", "nowhere/sd", "--offline"], "hub-unreachable", { model: "nowhere/sd", offline: true }));

  test("without its index", async () => {
    const model = await brokenModel((folder) => rm(join(folder, "model_index.json")));
    await expectRefused(["--model", model], "model-incomplete", { path: model, missing: "model_index.json" });
  });

  test("without the weights of a component", async () => {
    const model = await brokenModel((folder) => rm(join(folder, UNET)));
    await expectRefused(["--model", model], "model-incomplete", {
      path: join(model, "unet"),
      missing: "weights",
      found: ["config.json"],
    });
  });

  test("without the configuration of a component", async () => {
    const model = await brokenModel((folder) => rm(join(folder, "vae/config.json")));
    await expectRefused(["--model", model], "model-incomplete", { path: join(model, "vae"), missing: "config.json" });
  });

  test("without the tokenizer's merges", async () => {
    const model = await brokenModel((folder) => rm(join(folder, "tokenizer/merges.txt")));
    await expectRefused(["--model", model], "model-incomplete", {
      path: join(model, "tokenizer"),
      missing: expect.arrayContaining(["merges.txt"]),
    });
  });

  test("with truncated weights", async () => {
    const model = await brokenModel(async (folder) => {
      const bytes = await readFile(join(folder, UNET));
      await writeFile(join(folder, UNET), bytes.subarray(0, -1000));
    });
    await expectRefused(["--model", model], "file-malformed", { path: join(model, UNET), missing: 1000 });
  });

  test("with overlapping tensors", async () => {
    const model = await withHeader((header) => {
      const bias = header["conv_in.bias"]?.data_offsets as [number, number];
      const other = header["conv_out.bias"]?.data_offsets as [number, number];
      // The 4 floats of one lie in the 8 floats of the other.
      other[0] = bias[0];
      other[1] = bias[0] + 16;
    });
    await expectRefused(["--model", model], "file-malformed", {
      path: join(model, UNET),
      tensors: ["conv_in.bias", "conv_out.bias"],
      overlap: 16,
    });
  });

  test("with weights of the wrong type", async () => {
    const model = await withTensor("conv_in.bias", () => fromNumbers([1, 2, 3, 4, 5, 6, 7, 8], [8], "int8"));
    await expectRefused(["--model", model], "tensor-mismatch", {
      path: expect.stringContaining(join(model, UNET)),
      tensor: "unet.conv_in.bias",
      found: "int8",
      expected: ["float16", "bfloat16", "float32", "float64"],
    });
  });

  test("with weights of an unknown type", async () => {
    const model = await withHeader((header) => {
      Object.assign(header["conv_in.bias"] as object, { dtype: "F99" });
    });
    await expectRefused(["--model", model], "file-unsupported", {
      path: join(model, UNET),
      tensor: "conv_in.bias",
      found: '"F99"',
      expected: expect.arrayContaining(["F64", "F32"]),
    });
  });

  test("with weights of the wrong shape", async () => {
    const model = await withTensor("conv_in.bias", () => fromNumbers([1, 2, 3], [3]));
    await expectRefused(["--model", model], "tensor-mismatch", {
      path: expect.stringContaining(join(model, UNET)),
      tensor: "unet.conv_in.bias",
      found: [3],
      expected: [8],
    });
  });

  test("without one of the tensors", async () => {
    const model = await brokenModel(async (folder) => {
      const tensors = await tensorsOf(join(folder, UNET));
      tensors.delete("conv_in.bias");
      await writeSafetensors(join(folder, UNET), tensors);
    });
    await expectRefused(["--model", model], "tensor-missing", {
      path: expect.stringContaining(join(model, UNET)),
      tensor: "unet.conv_in.bias",
      expected: [8],
      suggestion: "unet.conv_out.bias",
    });
  });

  test("whose configuration names an unsupported block", async () => {
    const model = await withConfig("unet", {
      down_block_types: ["DownBlock2D", "CrossAttnDownBlock3D", "CrossAttnDownBlock2D"],
    });
    await expectRefused(["--model", model], "config-invalid", {
      path: join(model, "unet/config.json"),
      keys: ["down_block_types[1]"],
      found: ['"CrossAttnDownBlock3D"'],
      expected: ["DownBlock2D, CrossAttnDownBlock2D"],
      suggestion: "CrossAttnDownBlock2D",
    });
  });

  test("whose configuration is not JSON", async () => {
    const model = await brokenModel((folder) => writeFile(join(folder, "vae/config.json"), "{ "));
    await expectRefused(["--model", model], "file-malformed", { path: join(model, "vae/config.json") });
  });
});

describe("an unknown name gets the nearest one as a suggestion", () => {
  test("a reward", () =>
    expectRefused(["--reward", "compresibility"], "setting-invalid", {
      option: "--reward",
      setting: "reward.name",
      found: "compresibility",
      expected: expect.arrayContaining(["aesthetic", "hps", "pickscore"]),
      suggestion: "compressibility",
    }));

  test("a recipe", () =>
    expectError(["train", "defualt"], "recipe-not-found", {
      recipe: "defualt",
      suggestion: "default",
      known: expect.arrayContaining(["default", "ddpo"]),
    }));

  test("a key in a recipe, with its line", async () => {
    const file = `${fresh("recipe")}.yaml`;
    const misspelled = yaml.stringify({ ...settings, optimizer: { learning_rat: 1e-3 } });
    await writeFile(file, misspelled);
    await expectError(["train", file], "setting-unknown", {
      path: file,
      line: misspelled.split("\n").findIndex((line) => line.includes("learning_rat")) + 1,
      setting: "optimizer.learning_rat",
      suggestion: "optimizer.learning_rate",
    });
  });

  test("a key on the command line", () =>
    expectRefused(["--set", "lora.rnk=3"], "setting-unknown", {
      option: "--set",
      setting: "lora.rnk",
      suggestion: "lora.rank",
    }));

  test("an option", () => expectRefused(["--raward", "clip"], "usage", { option: "--raward", suggestion: "--reward" }));

  test("a command", () => expectError(["trian"], "usage", { found: "trian", suggestion: "train" }));
});

describe("numbers that do not fit", () => {
  test("a batch size that is not a multiple of the micro-batch, with the nearest one that is", () =>
    expectRefused(["--set", "batch.total=5"], "setting-invalid", {
      settings: ["batch.total", "batch.samples_per_epoch"],
      problems: [
        expect.stringMatching(/batch\.total 5 .* 2 .*batch\.per_device.* 6 /),
        expect.stringMatching(/batch\.samples_per_epoch 8 .*batch\.total 5/),
      ],
    }));

  test("an image size that the model cannot downsample", () =>
    expectRefused(["--set", "sampling.height=30"], "setting-invalid", {
      setting: "sampling.height",
      found: 30,
      divisor: 16,
      suggestion: 32,
    }));

  test("a memory limit that is not a size", () =>
    expectRefused(["--memory", "lots"], "setting-invalid", {
      option: "--memory",
      setting: "memory",
      found: "lots",
      expected: expect.stringContaining("4GB"),
    }));

  test("a memory limit that is too small, with the memory that the run needs", () =>
    expectRefused(["--memory", "1MB"], "memory-too-small", {
      setting: "memory",
      found: 1e6,
      expected: expect.closeTo(200e6, -8),
    }));

  test("several at once are reported together", () =>
    expectRefused(["--set", "lora.rank=0", "--set", "sampling.steps=two"], "setting-invalid", {
      settings: ["sampling.steps", "lora.rank"],
      problems: [expect.stringMatching(/sampling\.steps .*"two"/), expect.stringMatching(/lora\.rank .*1.* 0/)],
    }));
});

describe("early stopping and EMA", () => {
  test("a monitor needs its measurement", () =>
    expectRefused(["--set", "early_stop={patience: 2, min_diversity: 0.5}"], "setting-invalid", {
      settings: ["early_stop.monitor", "early_stop.min_diversity"],
      problems: [expect.stringContaining("evaluation.held_out"), expect.stringContaining("evaluation.diversity")],
    }));

  test("diversity needs several images per prompt", () =>
    expectRefused(["--set", "evaluation.diversity=models/rewards/clip"], "settings-conflict", {
      setting: "evaluation.diversity",
      with: "evaluation.seeds_per_prompt",
      found: 1,
      expected: 2,
    }));

  test("the held-out reward and the CLIP model of the diversity must exist", async () => {
    await expectRefused(["--set", "evaluation.held_out=clipp"], "setting-invalid", {
      setting: "evaluation.held_out.name",
      found: "clipp",
      expected: expect.arrayContaining(["aesthetic", "hps"]),
      suggestion: "clip",
    });
    const diversity = { ...settings.evaluation, seeds_per_prompt: 2, diversity: "./no-clip" };
    await expectRefused(["--set", `evaluation=${JSON.stringify(diversity)}`], "model-not-found", {
      path: join(scratch, "no-clip"),
    });
  });

  test("the numbers of the rule must be in range", () =>
    expectRefused(["--set", "early_stop={monitor: diversity, patience: 0, min_diversity: 2}"], "setting-invalid", {
      settings: ["early_stop.monitor", "early_stop.patience", "early_stop.min_diversity"],
      problems: [
        expect.stringMatching(/held-out, reward.*"diversity"/),
        expect.stringMatching(/1.* 0$/),
        expect.stringMatching(/1.* 2$/),
      ],
    }));

  test("the decay of the average must be below 1", () =>
    expectRefused(["--set", "ema.decay=1"], "setting-invalid", {
      setting: "ema.decay",
      found: 1,
      expected: "less than 1",
    }));
});

describe("annealed guidance", () => {
  test("needs an adapter in every command that generates images", async () => {
    const out = fresh("annealed");
    for (const command of [
      ["generate", "--prompt", "cat"],
      ["evaluate", recipe],
    ]) {
      const expected = { option: "--anneal", found: 1, missing: "--adapter" };
      await expectError([...command, "--anneal", "1", "--out", out], "usage", expected);
    }
    await expect(readdir(out)).rejects.toThrow(/ENOENT/);
  });

  test("needs a power from 0 to 100", () =>
    expectError(["generate", "--prompt", "cat", "--anneal", "-1"], "usage", { option: "--anneal", found: "-1" }));
});

describe("an output folder", () => {
  test("that is not empty is not changed", async () => {
    const out = fresh("taken");
    await mkdir(out);
    await writeFile(join(out, "thesis.txt"), "years of work");
    const expected = { option: "--out", path: out, entries: 1, example: "thesis.txt" };
    await expectError(["train", recipe, "--out", out], "output-exists", expected);
    expect(await contents(out)).toEqual({ "thesis.txt": Buffer.from("years of work").toString("base64") });
  });

  test("below a file", () =>
    expectError(["train", recipe, "--out", join(recipe, "run")], "output-unwritable", {
      option: "--out",
      path: join(recipe, "run"),
      folder: recipe,
    }));

  // Root may write everywhere but in /proc, where nobody can create files.
  test.skipIf(process.platform !== "linux")("that cannot be written, before any work is done", async () => {
    for (const command of [
      ["train", recipe],
      ["generate", "--model", TINY_SD, "--prompt", "cat"],
    ]) {
      const expected = { option: "--out", path: "/proc/images", folder: "/proc" };
      await expectError([...command, "--out", "/proc/images"], "output-unwritable", expected);
    }
  });
});

describe("resuming", async () => {
  const model = await brokenModel(async () => {});
  const run = fresh("run");
  const first = await alignprop("train", recipe, "--out", run, "--model", model);
  const before = first.code === 0 ? await contents(run) : {};
  const state = join(run, "checkpoints/step-000001/training_state.safetensors");

  test("needs a complete run, which this one is", () => {
    expect(first.code, first.stderr).toBe(0);
    expect(Object.keys(before)).toContain("checkpoints/step-000001/training_state.safetensors");
  });

  test("with settings that change the training is refused, and the run is not changed", async () => {
    await expectError(["train", "--resume", run, "--steps", "2", "--set", "lora.rank=4"], "run-mismatch", {
      path: state,
      settings: ["lora.rank"],
      found: ["4"],
      expected: ["2"],
    });
    expect(await contents(run)).toEqual(before);
  });

  test("with other weights is refused, and the run is not changed", async () => {
    const tensors = await tensorsOf(join(model, UNET));
    const bias = tensors.get("conv_in.bias") as HostTensor;
    bias.data[0] = 0.125;
    await writeSafetensors(join(model, UNET), tensors);
    await expectError(["train", "--resume", run, "--steps", "2"], "run-mismatch", {
      path: state,
      part: "model",
      name: model,
    });
    expect(await contents(run)).toEqual(before);
  });

  test("a folder that is not a run is refused", () =>
    expectError(["train", "--resume", TINY_SD], "run-not-found", {
      option: "--resume",
      path: TINY_SD,
      expected: "config.yaml",
    }));
});

describe("numbers that are not finite", () => {
  test("in the latents end the run, and earlier checkpoints are kept", async () => {
    const out = fresh("diverged");
    // The first step makes weights of 1e30, so the latents of the second one are not finite.
    const args = ["--steps", "3", "--set", "optimizer.learning_rate=1e30"];
    await expectError(["train", recipe, "--out", out, ...args], "not-finite", {
      message: expect.stringContaining("optimizer.learning_rate"),
      step: 2,
      prompt: expect.stringMatching(/^a (cat|dog)$/),
      sample: expect.any(Number),
      epoch: 0,
    });
    expect(await readdir(join(out, "checkpoints"))).toEqual(["step-000001"]);
    expect((await readFile(join(out, "metrics.jsonl"), "utf8")).trim().split("\n")).toHaveLength(1);
  });

  test("in the weights end the run before they are saved", async () => {
    const out = fresh("overflown");
    // Greater than the largest float32.
    const args = ["--steps", "3", "--set", "optimizer.learning_rate=1e39"];
    await expectError(["train", recipe, "--out", out, ...args], "not-finite", {
      message: expect.stringContaining("Infinity"),
      step: 1,
      tensor: expect.stringMatching(/^unet\.\S+lora_[AB]\.weight$/),
    });
    expect(await readdir(join(out, "checkpoints")).catch(() => [])).toEqual([]);
  });

  test("in the model are reported at step 0", async () => {
    const model = await withTensor("conv_out.bias", ({ shape }) => fromNumbers(new Array(4).fill(Number.NaN), shape));
    await expectError(["train", recipe, "--out", fresh("nan"), "--model", model], "not-finite", {
      step: 0,
      prompt: "a two cats",
      seed: 0,
    });
  });
});

test("a prompt over 77 tokens is truncated with a warning", async () => {
  const out = join(fresh("long"), "image.png");
  const prompt = "cat ".repeat(100).trim();
  const { code, stderr } = await alignprop(
    "generate",
    "--model",
    TINY_SD,
    "--prompt",
    prompt,
    "--steps",
    "2",
    "--out",
    out,
  );
  expect(code, stderr).toBe(0);
  expect(stderr).toMatch(/^warning: .*"cat cat .*…".* 77 tokens .*".*cat"/m);
  // The signature of a PNG.
  expect((await readFile(out)).subarray(1, 4).toString()).toBe("PNG");
});
