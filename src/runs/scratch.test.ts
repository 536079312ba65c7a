import { rmSync } from "node:fs";
import { createRequire } from "node:module";
import sharp from "sharp";
import { test } from "vitest";
import type { EvaluationResult, RgbImage } from "../train/events.js";
import { loadSettings, parseSet } from "../train/load-settings.js";
import { RunFolder } from "./run-folder.js";

const noto = createRequire(import.meta.url)("@iconify-json/noto/icons.json");
const flat = createRequire(import.meta.url)("@iconify-json/fluent-emoji-flat/icons.json");
async function draw(set: any, name: string, background: string): Promise<RgbImage> {
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${set.width ?? 16} ${set.height ?? 16}" width="64" height="64">${set.icons[name].body}</svg>`;
  const pixels = await sharp(Buffer.from(svg)).resize(64, 64).flatten({ background }).removeAlpha().raw().toBuffer();
  return { width: 64, height: 64, pixels: new Uint8Array(pixels) };
}
test("fake", async () => {
  rmSync("/tmp/cli/run", { recursive: true, force: true });
  const settings = await loadSettings({
    overrides: [parseSet("out=/tmp/cli/run"), parseSet("prompts.template='a <b>{}</b> & \"friends\"'")],
  });
  const run = await RunFolder.plan(settings);
  const animals = ["snail", "hippopotamus", "leopard", "crocodile", "lobster", "octopus"];
  const result = async (step: number): Promise<EvaluationResult> => {
    const images: RgbImage[] = [],
      prompts: string[] = [],
      seeds: number[] = [],
      rewards: number[] = [];
    for (const [i, a] of animals.entries())
      for (const seed of [0, 1]) {
        images.push(await draw(step < 10 ? noto : flat, a, step < 10 ? "#e8e4da" : "#9fd8ff"));
        prompts.push(`a <b>${a}</b> & "friends"`);
        seeds.push(seed);
        rewards.push(4 + i * 0.1 + seed * 0.3 + step * 0.2);
      }
    const mean = rewards.reduce((a, b) => a + b) / rewards.length;
    return { images, prompts, seeds, rewards, mean, std: 0.3 };
  };
  await run.observe({ kind: "started", step: 0, plan: {} as never });
  await run.observe({ kind: "evaluated", step: 0, result: await result(0) });
  for (let step = 1; step <= 20; step++) {
    const due = step % 5 === 0;
    const r = due ? await result(step) : undefined;
    if (r) await run.observe({ kind: "evaluated", step, result: r });
    await run.observe({
      kind: "stepped",
      metrics: {
        step,
        epoch: Math.floor(step / 2),
        samples: step * 16,
        loss: 0.06 - step * 0.002 + 0.003 * Math.sin(step),
        reward_mean: 4 + step * 0.19 + 0.2 * Math.sin(step * 3),
        reward_std: 0.5,
        grad_norm: 0.02 + 0.01 * Math.cos(step),
        seconds: 7.3,
        peak_rss_bytes: 1.1e9,
        ...(r ? { eval_reward_mean: r.mean, eval_reward_std: r.std } : {}),
      },
    });
    if (step % 10 === 0)
      await run.observe({ kind: "checkpointed", step, files: new Map([["a.bin", new Uint8Array(3)]]) });
  }
  await run.observe({ kind: "finished", result: { step: 20, updates: 20, interrupted: false, seconds: 100 } });
});
