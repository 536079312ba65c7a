/**
 * Bad input, told by the program as people start it: exit code 2, one message that says what, where, what was found and
 * what would mend it, and nothing half-written.
 */
import { spawn } from "node:child_process";
import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import * as yaml from "yaml";
import { fromNumbers, type HostTensor } from "../src/tensor/host.js";
import { openSafetensors, writeSafetensors } from "../src/weights/safetensors.js";
import { readTensor } from "../src/weights/source.js";
import { TINY_RECIPE, TINY_SD } from "./tiny.js";

const MAIN = join(import.meta.dirname, "../dist/src/cli/main.js");
const scratch = await mkdtemp(join(tmpdir(), "alignprop-bad-"));
afterAll(() => rm(scratch, { recursive: true }));

interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function alignprop(...args: string[]): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [MAIN, ...args], { cwd: scratch, timeout: 50_000, killSignal: "SIGKILL" });
    let [stdout, stderr] = ["", ""];
    child.stdout.on("data", (text) => {
      stdout += text;
    });
    child.stderr.on("data", (text) => {
      stderr += text;
    });
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, stdout, stderr }));
  });
}

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

/** The one message that a refused command says. */
function messageOf({ code, stdout, stderr }: Outcome): string {
  expect(stderr).not.toMatch(/\n\s+at |node:internal|file:\/\//);
  expect(stderr.match(/^error: /gm) ?? []).toHaveLength(1);
  expect([code, stdout]).toEqual([2, ""]);
  return stderr;
}

function expectAll(message: string, words: readonly (string | RegExp)[]): void {
  for (const word of words) expect(message).toMatch(typeof word === "string" ? literal(word) : word);
}

const literal = (text: string) => new RegExp(text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));

/** `alignprop train` on the recipe must refuse with a message that has `words`, and make no output folder. */
async function expectRefused(args: readonly string[], ...words: (string | RegExp)[]): Promise<void> {
  const out = fresh("out");
  const message = messageOf(await alignprop("train", recipe, "--out", out, ...args));
  expect(message).toMatch(/^error: /);
  expectAll(message, words);
  await expect(readdir(out)).rejects.toThrow(/ENOENT/);
}

/** A copy of the tiny model, then broken. */
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

/** Writes one of the U-Net's tensors anew. */
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

/** Every file below `folder` with its content. */
async function contents(folder: string): Promise<Record<string, string>> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  const read = files.map(async (file) => [relative(folder, file), (await readFile(file)).toString("base64")] as const);
  return Object.fromEntries((await Promise.all(read)).sort());
}

describe("estimators and programs", () => {
  test("of the user's that are not what they should be are refused before anything is written", async () => {
    await expectRefused(["--set", "estimator=./none.js"], "estimator ./none.js: no such file");
    await writeFile(
      join(scratch, "half.mjs"),
      'export default { kind: "update", name: "half", usesRewardGradient: true };',
    );
    await expectRefused(
      ["--set", "estimator=./half.mjs"],
      "estimator ./half.mjs: its default export is no estimator (mask must be a function)",
    );
    const program = (command: string) => ["--set", `reward={ name: program, command: ${command} }`];
    await expectRefused(program("[no-such-judge]"), 'reward program "no-such-judge": no such program');
    await expectRefused(program("[node, judge.js]"), "the reward node has no gradient", "estimator: ddpo");
    await expectRefused(["--set", "estimator=ddpo"], "--set estimator=ddpo: ddpo learns", "set sampling.eta: 1");
  });
});

describe("a model folder", () => {
  test("that is missing", () =>
    expectRefused(["--model", "./nowhere/sd"], "model folder", "nowhere/sd: not found", "model_index.json"));

  test("that could be a model of the hub, which is not asked", () =>
    expectRefused(
      ["--model", "nowhere/sd", "--offline"],
      "nowhere/sd: is not a local folder",
      "not in the cache",
      "Download it",
    ));

  test("without its index", async () => {
    const model = await brokenModel((folder) => rm(join(folder, "model_index.json")));
    await expectRefused(["--model", model], model, "has no model_index.json", "diffusers layout holds");
  });

  test("without a part's weights", async () => {
    const model = await brokenModel((folder) => rm(join(folder, UNET)));
    await expectRefused(["--model", model], join(model, "unet"), "has no weights", "Found: config.json");
  });

  test("without a part's configuration", async () => {
    const model = await brokenModel((folder) => rm(join(folder, "vae/config.json")));
    await expectRefused(["--model", model], join(model, "vae"), "has no config.json");
  });

  test("without the tokenizer's merges", async () => {
    const model = await brokenModel((folder) => rm(join(folder, "tokenizer/merges.txt")));
    await expectRefused(["--model", model], join(model, "tokenizer"), "merges.txt");
  });

  test("with weights cut short", async () => {
    const model = await brokenModel(async (folder) => {
      const bytes = await readFile(join(folder, UNET));
      await writeFile(join(folder, UNET), bytes.subarray(0, -1000));
    });
    await expectRefused(["--model", model], join(model, UNET), "truncated", "1000 bytes", "Download it again");
  });

  test("with overlapping tensors", async () => {
    const model = await withHeader((header) => {
      const bias = header["conv_in.bias"]?.data_offsets as [number, number];
      const other = header["conv_out.bias"]?.data_offsets as [number, number];
      // Four floats on top of eight.
      other[0] = bias[0];
      other[1] = bias[0] + 16;
    });
    await expectRefused(["--model", model], join(model, UNET), "conv_in.bias", "conv_out.bias", /overlap|same bytes/);
  });

  test("with weights of a wrong type", async () => {
    const model = await withTensor("conv_in.bias", () => fromNumbers([1, 2, 3, 4, 5, 6, 7, 8], [8], "int8"));
    await expectRefused(["--model", model], join(model, UNET), "unet.conv_in.bias is int8", "must be float16");
  });

  test("with weights of a type that there is not", async () => {
    const model = await withHeader((header) => {
      Object.assign(header["conv_in.bias"] as object, { dtype: "F99" });
    });
    await expectRefused(["--model", model], join(model, UNET), "conv_in.bias", "F99", "convert it to one of F64, F32");
  });

  test("with weights of a wrong shape", async () => {
    const model = await withTensor("conv_in.bias", () => fromNumbers([1, 2, 3], [3]));
    await expectRefused(["--model", model], "unet.conv_in.bias has shape [3]", "[8]", "Do the weights belong");
  });

  test("without one of the tensors", async () => {
    const model = await brokenModel(async (folder) => {
      const tensors = await tensorsOf(join(folder, UNET));
      tensors.delete("conv_in.bias");
      await writeSafetensors(join(folder, UNET), tensors);
    });
    await expectRefused(["--model", model], join(model, UNET), "unet.conv_in.bias [8] is missing", "nearest name is");
  });

  test("whose configuration names an unsupported block", async () => {
    const model = await withConfig("unet", {
      down_block_types: ["DownBlock2D", "CrossAttnDownBlock3D", "CrossAttnDownBlock2D"],
    });
    await expectRefused(
      ["--model", model],
      join(model, "unet/config.json"),
      'down_block_types[1] is "CrossAttnDownBlock3D"',
      "supported: DownBlock2D, CrossAttnDownBlock2D (nearest: CrossAttnDownBlock2D)",
    );
  });

  test("whose configuration is no JSON", async () => {
    const model = await brokenModel((folder) => writeFile(join(folder, "vae/config.json"), "{ "));
    await expectRefused(["--model", model], join(model, "vae/config.json"), "not valid JSON");
  });
});

describe("a name that is unknown gets the nearest one", () => {
  test("a reward", () =>
    expectRefused(
      ["--reward", "compresibility"],
      "--reward compresibility: reward.name must be one of aesthetic, hps, pickscore",
      "did you mean compressibility?",
    ));

  test("a recipe", async () => {
    const message = messageOf(await alignprop("train", "defualt"));
    expectAll(message, ['unknown recipe "defualt"', "did you mean default?", "or a .yaml file"]);
  });

  test("a key in a recipe, with its line", async () => {
    const file = fresh("recipe");
    const misspelt = { ...settings, optimizer: { learning_rat: 1e-3 } };
    await writeFile(`${file}.yaml`, yaml.stringify(misspelt));
    const message = messageOf(await alignprop("train", `${file}.yaml`));
    expectAll(message, [
      /recipe-\d+\.yaml:\d+: optimizer\.learning_rat is not a setting; did you mean optimizer\.learning_rate\?/,
    ]);
  });

  test("a key on the command line", () =>
    expectRefused(["--set", "lora.rnk=3"], "--set lora.rnk=3: lora.rnk is not a setting", "did you mean lora.rank?"));

  test("an option", () => expectRefused(["--raward", "clip"], "unknown option '--raward'", "Did you mean --reward?"));

  test("a command", async () => {
    expectAll(messageOf(await alignprop("trian")), ["unknown command 'trian'", "Did you mean train?"]);
  });
});

describe("numbers that do not fit", () => {
  test("a total that the batch does not divide, with the nearest that it does", () =>
    expectRefused(
      ["--set", "batch.total=5"],
      "batch.total 5 is not a multiple of 2 (batch.per_device); try batch.total 6 or batch.per_device 1",
      "batch.samples_per_epoch 8 is not a multiple of batch.total 5",
    ));

  test("a picture size that the model cannot halve", () =>
    expectRefused(["--set", "sampling.height=30"], "sampling.height: 30 pixels is not a multiple of 16", "try 32"));

  test("a memory that is no size, and one that is too small, with what is needed", async () => {
    await expectRefused(["--memory", "lots"], 'memory: must be a size such as 4GB or 800MiB, found "lots"');
    await expectRefused(["--memory", "1MB"], "memory 1.00 MB is too little: this run needs about", "batch.per_device");
  });

  test("all wrong settings are told together", () =>
    expectRefused(
      ["--set", "lora.rank=0", "--set", "sampling.steps=two"],
      "2 settings are wrong",
      "lora.rank must be at least 1, found 0",
      'sampling.steps must be a number, found "two"',
    ));
});

describe("what is watched", () => {
  test("must be measured", () =>
    expectRefused(
      ["--set", "early_stop={patience: 2, min_diversity: 0.5}"],
      "2 settings are wrong",
      "early_stop.monitor is held-out, but there is no evaluation.held_out; name a reward there, or set early_stop.monitor: reward",
      "early_stop.min_diversity needs evaluation.diversity; name a CLIP model there",
    ));

  test("needs several pictures of a prompt to compare", () =>
    expectRefused(
      ["--set", "evaluation.diversity=models/rewards/clip"],
      "evaluation.diversity compares images of the same prompt, but evaluation.seeds_per_prompt is 1; give at least 2",
    ));

  test("is a reward and a CLIP that are there", async () => {
    await expectRefused(
      ["--set", "evaluation.held_out=clipp"],
      "evaluation.held_out.name must be one of aesthetic, hps",
      'found "clipp"; did you mean clip?',
    );
    const diversity = { ...settings.evaluation, seeds_per_prompt: 2, diversity: "./no-clip" };
    await expectRefused(["--set", `evaluation=${JSON.stringify(diversity)}`], "no-clip", /not found|no such/);
  });

  test("ends a run by a rule whose numbers can be", () =>
    expectRefused(
      ["--set", "early_stop={monitor: diversity, patience: 0, min_diversity: 2}"],
      "early_stop.monitor must be one of held-out, reward",
      "early_stop.patience must be at least 1, found 0",
      "early_stop.min_diversity must be at most 1, found 2",
    ));

  test("is averaged with a decay below 1", () =>
    expectRefused(["--set", "ema.decay=1"], "ema.decay must be less than 1, found 1"));
});

describe("annealed guidance", () => {
  test("without anything that was tuned is refused by every command that draws", async () => {
    const out = fresh("annealed");
    for (const command of [
      ["generate", "--prompt", "cat"],
      ["evaluate", recipe],
    ]) {
      const message = messageOf(await alignprop(...command, "--anneal", "1", "--out", out));
      expectAll(message, ["--anneal 1: goes from the base model to a tuned one", "add --adapter"]);
    }
    await expect(readdir(out)).rejects.toThrow(/ENOENT/);
  });

  test("with a power that is none", async () => {
    const message = messageOf(await alignprop("generate", "--prompt", "cat", "--anneal", "-1"));
    expectAll(message, ["--anneal", "from 0 to 100"]);
  });
});

describe("an output folder", () => {
  test("that is not empty is left as it is", async () => {
    const out = fresh("taken");
    await mkdir(out);
    await writeFile(join(out, "thesis.txt"), "years of work");
    const message = messageOf(await alignprop("train", recipe, "--out", out));
    expectAll(message, [`--out ${out}: the folder is not empty`, "thesis.txt", "name another"]);
    expect(await contents(out)).toEqual({ "thesis.txt": Buffer.from("years of work").toString("base64") });
  });

  test("below a file", async () => {
    const message = messageOf(await alignprop("train", recipe, "--out", join(recipe, "run")));
    expectAll(message, [`--out ${recipe}/run: ${recipe} is a file, not a folder`]);
  });

  // Root may write everywhere but in /proc, where nobody can make files.
  test.skipIf(process.platform !== "linux")("that cannot be written, before any work is done", async () => {
    for (const command of [
      ["train", recipe],
      ["generate", "--model", TINY_SD, "--prompt", "cat"],
    ]) {
      const message = messageOf(await alignprop(...command, "--out", "/proc/pictures"));
      expectAll(message, ["--out /proc/pictures: cannot write in /proc", "name another folder"]);
    }
  });
});

describe("resuming", async () => {
  const model = await brokenModel(async () => {});
  const run = fresh("run");
  const first = await alignprop("train", recipe, "--out", run, "--model", model);
  const before = first.code === 0 ? await contents(run) : {};

  test("needs a run that ended well, which this one is", () => {
    expect(first.code, first.stderr).toBe(0);
    expect(Object.keys(before)).toContain("checkpoints/step-000001/training_state.safetensors");
  });

  test("with settings that learn something else is refused, and the run stays as it is", async () => {
    const outcome = await alignprop("train", "--resume", run, "--steps", "2", "--set", "lora.rank=4");
    expectAll(messageOf(outcome), [
      join(run, "checkpoints/step-000001"),
      "lora.rank is 4 now and was 2",
      "start a new run",
    ]);
    expect(await contents(run)).toEqual(before);
  });

  test("with other weights is refused, and the run stays as it is", async () => {
    const tensors = await tensorsOf(join(model, UNET));
    const bias = tensors.get("conv_in.bias") as HostTensor;
    bias.data[0] = 0.125;
    await writeSafetensors(join(model, UNET), tensors);
    const message = messageOf(await alignprop("train", "--resume", run, "--steps", "2"));
    expectAll(message, ["made with other model weights", model, "put the old ones back, or start a new run"]);
    expect(await contents(run)).toEqual(before);
  });

  test("a folder that is no run is refused", async () => {
    const message = messageOf(await alignprop("train", "--resume", TINY_SD));
    expectAll(message, [`--resume ${TINY_SD}: this is not a run's folder`, "config.yaml"]);
  });
});

describe("numbers that are no longer finite", () => {
  const until = (stderr: string) => stderr.slice(stderr.indexOf("error: "));

  test("in the pictures stop the run with step and place, and keep the last good checkpoint", async () => {
    const out = fresh("diverged");
    // The first update leaves weights of 1e30, whose pictures are no numbers.
    const args = ["--steps", "3", "--set", "optimizer.learning_rate=1e30"];
    const { code, stderr } = await alignprop("train", recipe, "--out", out, ...args);
    expect(code, stderr).toBe(2);
    expectAll(until(stderr), [
      /^error: step 2: the denoised latents are not finite for "a (cat|dog)" \(sample \d of epoch 0\)/,
      "checkpoints saved before are kept",
      "lower optimizer.learning_rate",
    ]);
    expect(stderr).not.toMatch(/\n\s+at /);
    expect(await readdir(join(out, "checkpoints"))).toEqual(["step-000001"]);
    expect((await readFile(join(out, "metrics.jsonl"), "utf8")).trim().split("\n")).toHaveLength(1);
  });

  test("in the weights stop the run before they are saved", async () => {
    const out = fresh("overflown");
    // Beyond the largest float32.
    const args = ["--steps", "3", "--set", "optimizer.learning_rate=1e39"];
    const { code, stderr } = await alignprop("train", recipe, "--out", out, ...args);
    expect(code, stderr).toBe(2);
    expectAll(until(stderr), [
      /^error: step 1: after the update, the weight of unet\.\S+lora_[AB]\.weight is -?Infinity/,
    ]);
    expect(await readdir(join(out, "checkpoints")).catch(() => [])).toEqual([]);
  });

  test("in the model are told at step 0", async () => {
    const model = await withTensor("conv_out.bias", ({ shape }) => fromNumbers(new Array(4).fill(Number.NaN), shape));
    const { code, stderr } = await alignprop("train", recipe, "--out", fresh("nan"), "--model", model);
    expect(code, stderr).toBe(2);
    expectAll(until(stderr), [
      /^error: step 0: the denoised latents are not finite for "a two cats" \(seed 0\)/,
      "are the model's weights sound?",
    ]);
  });
});

test("a prompt over 77 tokens is cut with a warning, and drawn", async () => {
  const out = join(fresh("long"), "picture.png");
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
  expectAll(stderr, [
    /warning: the prompt "cat cat .*…" is longer than the 77 tokens of the text encoder; its end is left out: ".*cat"/,
  ]);
  // The signature of a PNG.
  expect((await readFile(out)).subarray(1, 4).toString()).toBe("PNG");
});
