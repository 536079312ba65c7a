/**
 * The examples and the README's library code as a user has them: in a folder of their own, with the built package in
 * node_modules, compiled with `tsc --strict` and run on the tiny model.
 */
import { execFile } from "node:child_process";
import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { readImage } from "../src/images/read.js";
import { loadRun } from "../src/runs/load-run.js";
import { resumeRun } from "../src/runs/train-run.js";
import { inputError } from "./errors.js";
import { TINY_RECIPE } from "./tiny.js";

const root = join(import.meta.dirname, "..");
const recipe = "tiny.yaml";

let user: string;
beforeAll(async () => {
  user = await mkdtemp(join(tmpdir(), "alignprop-user-"));
  await mkdir(join(user, "node_modules/@types"), { recursive: true });
  await symlink(root, join(user, "node_modules/alignprop"));
  await symlink(join(root, "node_modules/@types/node"), join(user, "node_modules/@types/node"));
  await writeFile(join(user, "package.json"), JSON.stringify({ type: "module" }));
  await writeFile(join(user, recipe), JSON.stringify(tinyRecipe));
  for (const name of await exampleNames()) await cp(join(root, "examples", name), join(user, name));
  await writeFile(join(user, "readme.ts"), (await readmeCode()).replace('"default"', JSON.stringify(recipe)));
  const files = (await readdir(user)).filter((name) => name.endsWith(".ts"));
  await node(join(root, "node_modules/typescript/bin/tsc"), ...options, ...files);
}, 120_000);
afterAll(() => rm(user, { recursive: true }));

const options = ["--strict", "--module", "nodenext", "--target", "es2023", "--types", "node"];

/** A YAML file may be JSON. */
const tinyRecipe = {
  ...TINY_RECIPE,
  prompts: { train: ["cat", "dog"], eval: ["fox"] },
  train: { steps: 2 },
  evaluation: { every: 2, batch: 2, seeds_per_prompt: 2 },
};

/** Runs a program in the user's folder and returns what it prints. */
async function node(...args: string[]): Promise<string> {
  const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: user }).catch((error) => {
    throw new Error(`${args.join(" ")}\n${error.stdout}\n${error.stderr}`);
  });
  return stdout;
}

async function exampleNames(): Promise<string[]> {
  return (await readdir(join(root, "examples"))).filter((name) => name.endsWith(".ts"));
}

async function readmeCode(): Promise<string> {
  const [, code] = /```ts\n(.*?)```/s.exec(await readFile(join(root, "README.md"), "utf8")) ?? [];
  return code as string;
}

test("each example is shorter than 40 lines", async () => {
  const names = await exampleNames();
  expect(names.sort()).toEqual(["generate.ts", "own-estimator.ts", "own-reward.ts", "score.ts"]);
  for (const name of names) {
    const text = await readFile(join(root, "examples", name), "utf8");
    expect(text.split("\n").length, name).toBeLessThan(40);
  }
});

test("the README's program trains on its own reward, writes a run folder, and generates an image", async () => {
  const printed = await node("readme.js");
  const folder = join("runs", "tiny-1");
  expect(printed).toContain("2/2: ");
  expect(printed).toContain(join(folder, "report.html"));
  expect((await readdir(join(user, folder))).sort()).toEqual([
    "checkpoints",
    "config.yaml",
    "metrics.jsonl",
    "report.html",
    "samples",
  ]);
  expect(await readImage(join(user, "fox.png"))).toMatchObject({ width: 32, height: 32 });
});

test("own-reward.ts trains a run that loadRun reads, and generate.ts and score.ts use it", async () => {
  const printed = await node("own-reward.js", recipe, "blue");
  const run = await loadRun(join(user, "blue"));
  expect(run.settings).toMatchObject({ reward: { name: "code", title: "blue" }, loss: { form: "maximize" } });
  expect(run.metrics.map(({ step }) => step)).toEqual([1, 2]);
  expect(run.best).toMatchObject({ step: 2, folder: join(user, "blue/checkpoints/step-000002") });
  expect(run.evaluation).toMatchObject({ prompts: ["fox", "fox"], seeds: [0, 1] });
  expect(run.evaluation?.images).toHaveLength(2);
  expect(printed).toContain(`reward of the evaluation: ${run.base?.mean} → ${run.evaluation?.mean}`);

  expect(await node("generate.js", "blue", "cat")).toContain("wrote 6 images");
  const [before, after] = await Promise.all(
    ["before", "after"].map((name) => readImage(join(user, `generated/seed-7-${name}.png`))),
  );
  expect(after).not.toEqual(before);

  const scored = await node("score.js", "generated");
  expect(scored.split("\n").filter((line) => line.includes("brightness"))).toHaveLength(7);
});

test("own-estimator.ts trains a run that resumes with the same estimator only", async () => {
  await node("own-estimator.js", recipe, "evolved");
  const folder = join(user, "evolved");
  const { settings, metrics } = await loadRun(folder);
  expect(settings.estimator).toEqual({ name: "code", title: "evolution" });
  expect(metrics).toHaveLength(2);
  await expect(resumeRun(folder, { steps: 4 })).rejects.toThrow(
    inputError("estimator-invalid", { setting: "estimator", estimator: "evolution" }),
  );
});
