import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { settingsFrom } from "../../config/load.js";
import type { Plan } from "../../engine/plan.js";
import type { EvaluationResult } from "../../scoring/evaluation.js";
import { evenly } from "../record/run-record.js";
import { RunFolder } from "../run-folder.js";
import { lineChart, ticks } from "./chart.js";
import { duration, format } from "./format.js";
import { html } from "./html.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-report-"));
afterAll(() => rm(scratch, { recursive: true }));

const prompts = ["snail", "snail", '<script>alert("x")</script> & co'];

function evaluation(rewards: readonly number[]): EvaluationResult {
  const image = { width: 1, height: 1, pixels: new Uint8Array([1, 2, 3]) };
  const mean = rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length;
  return { prompts, seeds: [0, 1, 2], rewards, images: [image, image, image], mean, std: 0 };
}

/** Rewards 1, 2, 3 (mean 2, deviation √(2/3) = 0.816) become 4, 5, 6: a gain of 3, which is 3.7 deviations. */
async function report(): Promise<string> {
  const settings = await settingsFrom({ out: join(scratch, "run"), prompts: { eval: prompts } }, "escape-me");
  const run = await RunFolder.plan(settings);
  await run.observe({ kind: "started", plan: {} as Plan, step: 0 });
  for (const [step, rewards] of [
    [1, 2, 3],
    [2, 3, 4],
    [4, 5, 6],
  ].entries()) {
    await run.observe({ kind: "evaluated", step, result: evaluation(rewards) });
    if (step === 0) continue;
    const row = {
      step,
      epoch: 0,
      samples: 4 * step,
      loss: 1,
      reward_mean: step,
      reward_std: 0.5,
      reward_queries: 4,
      unet_calls: 8,
      grad_norm: 2,
    };
    await run.observe({ kind: "stepped", metrics: { ...row, seconds: 30, peak_rss_bytes: 2 ** 30 } });
  }
  await run.observe({ kind: "checkpointed", step: 2, files: new Map() });
  return await readFile(run.report, "utf8");
}

describe("the report", async () => {
  const page = await report();

  test("summarizes the run in a sentence", () => {
    expect(page).toContain(
      "In 2 steps the aesthetic reward on held-out prompts rose from 2.00 to 5.00, +3.7 standard deviations of the base model.",
    );
  });

  test("escapes the text of users", () => {
    expect(page).not.toContain("<script>alert");
    expect(page).toContain("&#60;script&#62;alert(&#34;x&#34;)&#60;/script&#62; &#38; co");
  });

  test("loads no other file", () => {
    for (const [, source] of page.matchAll(/(?:src|href)="([^"]*)"/g))
      expect(source).toMatch(/^data:image\/png;base64,/);
    expect(page).not.toMatch(/url\(|@import|<link|https?:/);
  });

  test("shows every prompt and seed before, during and after training", () => {
    expect(page.match(/<article>/g)?.length).toBe(2); // two prompts, one of them with two seeds
    expect(page.match(/<div class="ends">/g)?.length).toBe(3);
    expect(page).toContain("seed 1, after");
    expect(page).toContain("seed 1, step 1");
  });

  test("shows how to use the adapter", () => {
    const adapter = join(scratch, "run/checkpoints/step-000002");
    expect(page).toContain(`alignprop generate --prompt snail --adapter ${adapter}`);
    expect(page).toContain(`pipe.load_lora_weights(&#34;${adapter}&#34;)`);
    expect(page).toContain("escape-me.kohya.safetensors");
  });

  test("lists every setting", () => {
    expect(page).toContain("<th>optimizer.learning_rate</th><td>0.001</td>");
    expect(page).toContain("<th>threads</th><td>automatic</td>");
    expect(page).toContain("<th>evaluation.held_out</th><td>none</td>");
    expect(page).toContain("and 33 more"); // 45 animals, of which 12 are listed
  });
});

describe("the report of a run with monitored rewards", async () => {
  const evaluation = { seeds_per_prompt: 2, held_out: "clip", diversity: "models/rewards/clip" } as const;
  const settings = await settingsFrom(
    { out: join(scratch, "monitored"), prompts: { eval: ["snail"] }, evaluation, early_stop: { patience: 1 } },
    "monitored",
  );
  const run = await RunFolder.plan(settings);
  await run.observe({ kind: "started", plan: {} as Plan, step: 0 });
  for (const [step, [reward, held, diversity]] of (
    [
      [4, 0.5, 0.4],
      [5, 0.7, 0.35],
      [6, 0.6, 0.1],
    ] as const
  ).entries()) {
    const image = { width: 1, height: 1, pixels: new Uint8Array([1, 2, 3]) };
    const result: EvaluationResult = {
      ...{ prompts: ["snail", "snail"], seeds: [0, 1], rewards: [reward, reward], images: [image, image] },
      ...{ mean: reward, std: 0 },
      heldOut: { rewards: [held, held + 0.02], mean: held + 0.01, std: 0.01 },
      diversity: { distances: [diversity, diversity], mean: diversity },
    };
    await run.observe({ kind: "evaluated", step, result });
    if (step === 0) continue;
    const evaluated = { eval_reward_mean: reward, eval_held_out_mean: held + 0.01, eval_diversity: diversity };
    const cost = { reward_queries: step, unet_calls: step };
    const row = { step, epoch: 0, samples: step, ...cost, loss: 1, reward_mean: reward, reward_std: 0.5, grad_norm: 2 };
    await run.observe({ kind: "stepped", metrics: { ...row, seconds: 1, peak_rss_bytes: 1, ...evaluated } });
    await run.observe({ kind: "checkpointed", step, files: new Map() });
  }
  const page = await readFile(run.report, "utf8");

  test("says why it stopped, and when it began to over-optimise", () => {
    expect(page).toContain(
      "The run stopped early, after step 2 of 14: the held-out clip reward has not risen above the 0.710 of step 1 in 1 evaluation. " +
        "The best checkpoint is step 1. The run began to over-optimise after step 1: the held-out clip reward was highest there, " +
        "0.710, and fell to 0.610 by step 2",
    );
    expect(page).toContain("with a diversity of 0.100, 25 % of the base model&#39;s 0.400.");
  });

  test("draws reward, held-out reward and diversity on the same axis of steps", () => {
    const charts = ["Reward over steps", "Held-out reward: clip over steps", "Diversity over steps"].map(
      (title) => new RegExp(`aria-label="${title}">[^]*?</svg>`).exec(page)?.[0] ?? "",
    );
    const marks = charts.map((chart) => /<line class="mark" x1="([\d.]+)"/.exec(chart)?.[1]);
    expect(marks[0]).toBeDefined();
    expect(new Set(marks).size).toBe(1);
    expect(charts[1]?.match(/<circle class="held"/g)?.length).toBe(3);
    expect(charts[2]?.match(/<circle class="diverse"/g)?.length).toBe(3);
  });

  test("shows how to use the best checkpoint", () => {
    expect(page).toContain(`--adapter ${join(scratch, "monitored/checkpoints/step-000001")}`);
  });
});

test("html escapes values and keeps html", () => {
  expect(html`<p title="${"\"'"}">${1}${html`<b>${"<"}</b>`}${[html`x`, html`y`]}</p>`.text).toBe(
    '<p title="&#34;&#39;">1<b>&#60;</b>xy</p>',
  );
});

test("a chart can have one point, equal values, or no points", () => {
  const points = (ys: number[]) =>
    lineChart({ title: "t", series: [{ label: "l", className: "train", points: ys.map((y, x) => ({ x, y })) }] });
  expect(points([]).text).toBe("");
  for (const ys of [[3], [3, 3], [0, 0], [-1e-9, 1e9]]) expect(points(ys).text).not.toMatch(/NaN|Infinity/);
});

test("ticks are round numbers that span the range", () => {
  expect(ticks(0, 20, 6)).toEqual([0, 5, 10, 15, 20]);
  expect(ticks(4.4, 8.4, 5)).toEqual([4, 5, 6, 7, 8, 9]);
  expect(ticks(0.1, 0.3, 4)).toEqual([0.1, 0.15, 0.2, 0.25, 0.3]);
});

test("numbers are short", () => {
  expect([0, 0.0123456, 0.9876, 8.4, 123.4, 5e-9].map(format)).toEqual([
    "0",
    "0.0123",
    "0.988",
    "8.40",
    "123",
    "5.0e-9",
  ]);
  expect([0.034, 7.3, 125, 11_400].map(duration)).toEqual(["0.034 s", "7.3 s", "2 min 5 s", "3 h 10 min"]);
});

test("thinning a list keeps its first and last items", () => {
  expect(evenly([0, 1, 2, 3, 4, 5, 6, 7, 8], 3)).toEqual([0, 4, 8]);
  expect(evenly([1, 2], 3)).toEqual([1, 2]);
});
