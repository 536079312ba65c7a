/** Rewards end to end: a sum of them in training, a module, and pictures on disk. */
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import sharp from "sharp";
import { afterAll, describe, expect, test } from "vitest";
import { stringify } from "yaml";
import { runCommandLine } from "../src/cli/program.js";
import { defineReward, ops } from "../src/rewards/user/define.js";
import { readMetrics } from "../src/runs/record/metrics.js";
import type { StepMetrics } from "../src/train/events.js";
import { train } from "../src/train/trainer.js";
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

  test("trains, tells each part at every step and evaluation, and shows them in the report", async () => {
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

    // The pictures of the last evaluation, scored from disk with the run's own recipe: 8 bits apart from what was judged.
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

  test.each([
    [[{ name: "clip", share: 2 }], "reward.combine.0.share must be at most 1, found 2"],
    [[{ name: "clip" }, { name: "aestetic" }], "reward.combine.1.name must be one of"],
    [[{ name: "clip", wieght: 1 }], "wieght"],
    [{ combine: [{ name: "clip", clamp: [1, 0] }] }, "the first must be the lower"],
  ])("%j is refused where it is wrong", async (wrong, message) => {
    const { code, said } = await run("train", await recipe("wrong", wrong), "--out", join(scratch, "never"));
    expect([code, said]).toEqual([2, expect.stringContaining(message)]);
  });
});

describe("a reward of the user's own", () => {
  test("is trained on by its file", async () => {
    const out = join(scratch, "palette");
    const { code, said } = await run("train", await recipe("own", "clip"), "--reward", PALETTE, "--out", out);
    expect([code, said]).toEqual([0, expect.stringContaining("palette reward")]);
    const [row] = await readMetrics(out);
    expect(row?.reward_mean).toBeLessThan(0);
    // A reward without a target of its own is maximised: the loss is minus the reward, scaled.
    expect(row?.loss).toBeCloseTo(-0.01 * (row?.reward_mean as number), 6);
  });

  test("is trained on as it is given in code", async () => {
    const red = defineReward({ name: "red", build: (images) => ops.mean(ops.slice(images, 1, [0, 1]), [1, 2, 3]) });
    const seen: StepMetrics[] = [];
    const settings = tinySettings({ steps: 1 });
    await train(settings, (event) => void (event.kind === "stepped" && seen.push(event.metrics)), { reward: red });
    expect(seen[0]?.reward_mean).toBeGreaterThan(0);
    expect(seen[0]?.reward_mean).toBeLessThan(1);
    expect(seen[0]?.grad_norm).toBeGreaterThan(0);
  });
});

describe("alignprop score", () => {
  const picture = (width: number, height: number, background: string) =>
    sharp({ create: { width, height, channels: 3, background } });

  test("judges pictures of several sizes and formats, and a folder of them", async () => {
    const folder = join(scratch, "pictures");
    await mkdir(folder);
    await picture(32, 32, "#ff0000").png().toFile(join(folder, "a.png"));
    await picture(48, 32, "#e63946").jpeg({ quality: 100 }).toFile(join(folder, "b.jpg"));
    await sharp({ create: { width: 32, height: 48, channels: 4, background: { r: 0, g: 0, b: 0, alpha: 0 } } })
      .webp()
      .toFile(join(folder, "c.webp"));
    await writeFile(join(folder, "notes.txt"), "no picture");
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
    // What is transparent shows white.
    expect(scores[2].reward).toBeCloseTo(0, 5);
    const plain = await run("score", join(folder, "a.png"), "--set", set);
    expect(plain.printed).toMatch(/a\.png {2}.*\npalette reward .* over 1 image$/);
  });

  test("wants a prompt for a reward that reads one", async () => {
    const file = join(scratch, "plain.png");
    await picture(32, 32, "#00ff00").png().toFile(file);
    const set = `reward={ name: clip, clip: ${TINY_REWARD}/clip }`;
    const { code, said } = await run("score", file, "--set", set);
    expect([code, said]).toEqual([2, expect.stringContaining("judges a picture by its prompt, and none is known")]);
    expect((await run("score", file, "--set", set, "--prompt", "a cat")).code).toBe(0);
  });

  test.each([
    ["no such file", async () => join(scratch, "none.png"), "none.png: "],
    ["no picture", async () => fileURLToPath(import.meta.url), "cannot be read as a picture"],
    [
      "half a picture",
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
      "half.png: cannot be read as a picture",
    ],
    [
      "a picture of too many pixels",
      async () => {
        const file = join(scratch, "huge.png");
        await sharp({ create: { width: 5000, height: 4000, channels: 3, background: "#fff" } })
          .png()
          .toFile(file);
        return file;
      },
      "huge.png: cannot be read as a picture: Input image exceeds pixel limit",
    ],
  ])("%s is refused with its name", async (_, file, message) => {
    const { code, said } = await run("score", await file(), "--reward", "compressibility");
    expect([code, said]).toEqual([2, expect.stringContaining(message)]);
  });
});
