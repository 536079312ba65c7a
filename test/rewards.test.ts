/** Rewards end to end: a combination in training, a module, and images on disk. */
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import sharp from "sharp";
import { afterAll, describe, expect, test } from "vitest";
import { stringify } from "yaml";
import { runCommandLine } from "../src/cli/program.js";
import { loadSettings } from "../src/config/load.js";
import { parseSet } from "../src/config/overrides.js";
import type { ErrorCode, ErrorFacts } from "../src/errors/index.js";
import { readImage } from "../src/images/read.js";
import { defineReward, ops } from "../src/rewards/user/define.js";
import { readMetrics } from "../src/runs/record/metrics.js";
import { score } from "../src/scoring/score.js";
import type { StepMetrics } from "../src/train/events.js";
import { train } from "../src/train/trainer.js";
import { inputError } from "./errors.js";
import { TINY_RECIPE, TINY_REWARD, tinySettings } from "./tiny.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-rewards-"));
afterAll(() => rm(scratch, { recursive: true }));

const PALETTE = fileURLToPath(new URL("../docs/examples/palette.js", import.meta.url));

async function run(...args: string[]) {
  const [printed, said]: [string[], string[]] = [[], []];
  const terminal = {
    isTTY: false,
    print: (text: string) => void printed.push(text),
    say: (text: string) => void said.push(text),
    update: () => {},
  };
  const code = await runCommandLine(args, terminal);
  return { code, printed: printed.join("\n"), said: said.join("\n") };
}

async function recipe(name: string, reward: unknown, more: object = {}): Promise<string> {
  const file = join(scratch, `${name}.yaml`);
  const prompts = { train: ["cat", "dog", "horse"], eval: ["two cats"] };
  const { loss: _, reward: __, ...tiny } = TINY_RECIPE;
  await writeFile(file, stringify({ ...tiny, prompts, reward, train: { steps: 2 }, ...more }));
  return file;
}

describe("a combination", () => {
  const reward = [
    {
      name: "aesthetic",
      clip: `${TINY_REWARD}/clip`,
      head: `${TINY_REWARD}/aesthetic`,
      target: 10,
      scale: 0.1,
      batch: 1,
    },
    { name: "clip", clip: `${TINY_REWARD}/clip`, weight: 2 },
    { name: "compressibility", label: "jpeg", share: 0.5 },
  ];

  test("trains, reports each part at every step and evaluation, and shows them in the report", async () => {
    const out = join(scratch, "run");
    const { code, said } = await run("train", await recipe("sum", reward), "--out", out, "--json");
    expect([code, said]).toEqual([0, expect.stringContaining("aesthetic + clip + jpeg reward")]);
    const rows = await readMetrics(out);
    expect(rows).toHaveLength(2);
    for (const { rewards = {} } of rows)
      expect(Object.keys(rewards)).toEqual(expect.arrayContaining(["aesthetic", "clip"]));
    const last = rows.at(-1) as StepMetrics;
    expect(Object.keys(last.eval_rewards ?? {})).toEqual(expect.arrayContaining(["aesthetic", "clip"]));
    expect(said).toMatch(/reward -?[\d.]+ ± [\d.]+ \(aesthetic [\d.]+, clip -?[\d.]+/);
    const report = await readFile(join(out, "report.html"), "utf8");
    for (const label of ["aesthetic over steps", "clip over steps"]) expect(report).toContain(label);

    // The images of the last evaluation, scored from disk with the run's recipe. They differ by the rounding to 8 bits.
    const scored = await run(
      "score",
      join(out, "samples", "step-000002"),
      "--recipe",
      join(out, "config.yaml"),
      "--json",
    );
    expect(scored.code).toBe(0);
    const { scores, mean } = JSON.parse(scored.printed);
    expect(mean).toBeCloseTo(last.eval_reward_mean as number, 2);
    expect(scores[0].prompt).toBe("two cats");
    expect(scores[0].parts.clip).toBeCloseTo(last.eval_rewards?.clip as number, 2);
  });

  test.each<[wrong: unknown, code: ErrorCode, facts: ErrorFacts]>([
    [
      [{ name: "clip", share: 2 }],
      "setting-invalid",
      { setting: "reward.combine.0.share", found: 2, expected: "at most 1" },
    ],
    [
      [{ name: "clip" }, { name: "aestetic" }],
      "setting-invalid",
      { setting: "reward.combine.1.name", found: "aestetic", suggestion: "aesthetic" },
    ],
    [
      [{ name: "clip", wieght: 1 }],
      "setting-unknown",
      { setting: "reward.combine.0.wieght", suggestion: "reward.combine.0.weight" },
    ],
    [{ combine: [{ name: "clip", clamp: [1, 0] }] }, "setting-invalid", { setting: "reward.combine.0.clamp" }],
  ])("%j is refused with the setting that is wrong", async (wrong, code, facts) => {
    await expect(loadSettings({ recipe: await recipe("wrong", wrong) })).rejects.toThrow(inputError(code, facts));
  });
});

describe("a custom reward", () => {
  test("can be trained on by its file", async () => {
    const out = join(scratch, "palette");
    const { code, said } = await run("train", await recipe("own", "clip"), "--reward", PALETTE, "--out", out);
    expect([code, said]).toEqual([0, expect.stringContaining("palette reward")]);
    const [row] = await readMetrics(out);
    expect(row?.reward_mean).toBeLessThan(0);
    // A reward without a target is maximized: the loss is the scaled negative of the reward.
    expect(row?.loss).toBeCloseTo(-0.01 * (row?.reward_mean as number), 6);
  });

  test("can be trained on from code", async () => {
    const red = defineReward({ name: "red", build: (images) => ops.mean(ops.slice(images, 1, [0, 1]), [1, 2, 3]) });
    const rows: StepMetrics[] = [];
    const settings = tinySettings({ steps: 1 });
    await train(settings, (event) => void (event.kind === "stepped" && rows.push(event.metrics)), { reward: red });
    expect(rows[0]?.reward_mean).toBeGreaterThan(0);
    expect(rows[0]?.reward_mean).toBeLessThan(1);
    expect(rows[0]?.grad_norm).toBeGreaterThan(0);
  });
});

describe("alignprop score", () => {
  const solid = (width: number, height: number, background: string) =>
    sharp({ create: { width, height, channels: 3, background } });

  test("scores images of several sizes and formats in a folder", async () => {
    const folder = join(scratch, "images");
    await mkdir(folder);
    await solid(32, 32, "#ff0000").png().toFile(join(folder, "a.png"));
    await solid(48, 32, "#e63946").jpeg({ quality: 100 }).toFile(join(folder, "b.jpg"));
    await sharp({ create: { width: 32, height: 48, channels: 4, background: { r: 0, g: 0, b: 0, alpha: 0 } } })
      .webp()
      .toFile(join(folder, "c.webp"));
    await writeFile(join(folder, "notes.txt"), "not an image");
    const options = '{ colours: ["#ff0000", "#ffffff"] }';
    const set = `reward={ name: module, file: ${JSON.stringify(PALETTE)}, options: ${options} }`;
    const { code, printed } = await run("score", folder, "--set", set, "--json");
    expect(code).toBe(0);
    const { scores } = JSON.parse(printed);
    expect(scores.map(({ file }: { file: string }) => file.slice(folder.length + 1))).toEqual([
      "a.png",
      "b.jpg",
      "c.webp",
    ]);
    expect(scores[0].reward).toBeCloseTo(0, 5);
    expect(scores[1].reward).toBeLessThan(-0.01);
    // Transparent pixels count as white.
    expect(scores[2].reward).toBeCloseTo(0, 5);
    const plain = await run("score", join(folder, "a.png"), "--set", set);
    expect(plain.printed).toMatch(/a\.png {2}.*\npalette reward .* over 1 image$/);
  });

  test("needs a prompt for a reward that reads one", async () => {
    const file = join(scratch, "plain.png");
    await solid(32, 32, "#00ff00").png().toFile(file);
    const set = `reward={ name: clip, clip: ${TINY_REWARD}/clip }`;
    const settings = await loadSettings({ overrides: [parseSet(set)] });
    await expect(score([{ name: file, read: () => readImage(file) }], settings)).rejects.toThrow(
      inputError("reward-needs-prompt", { path: file, reward: "clip" }),
    );
    expect((await run("score", file, "--set", set)).code).toBe(2);
    expect((await run("score", file, "--set", set, "--prompt", "a cat")).code).toBe(0);
  });

  test.each<[what: string, makeFile: () => Promise<string>, code: ErrorCode, facts: ErrorFacts]>([
    ["an absent file", async () => join(scratch, "none.png"), "file-not-found", {}],
    ["a file that is not an image", async () => fileURLToPath(import.meta.url), "image-invalid", {}],
    [
      "half an image",
      async () => {
        const file = join(scratch, "half.png");
        const whole = await sharp({
          create: {
            width: 64,
            height: 64,
            channels: 3,
            background: "#123456",
            noise: { type: "gaussian", mean: 128, sigma: 60 },
          },
        })
          .png()
          .toBuffer();
        await writeFile(file, whole.subarray(0, whole.length / 2));
        return file;
      },
      "image-invalid",
      {},
    ],
    [
      "an image with too many pixels",
      async () => {
        const file = join(scratch, "huge.png");
        const create = { width: 16_384, height: 16_385, channels: 3, background: "#fff" } as const;
        await sharp({ create, limitInputPixels: false }).png().toFile(file);
        return file;
      },
      "image-invalid",
      { reason: expect.stringContaining("pixel limit") },
    ],
  ])("%s is refused with its path", async (_, makeFile, code, facts) => {
    const path = await makeFile();
    const settings = await loadSettings({ recipe: "compressibility" });
    await expect(score([{ name: path, read: () => readImage(path) }], settings)).rejects.toThrow(
      inputError(code, { path, ...facts }),
    );
    const { code: exitCode, said } = await run("score", path, "--reward", "compressibility");
    expect([exitCode, said]).toEqual([2, expect.stringContaining(path)]);
  });
});
