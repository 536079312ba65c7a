import { readdirSync, statSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { loadSettings } from "../src/config/load.js";
import { parseSet } from "../src/config/overrides.js";
import { openPipeline } from "../src/pipeline/pipeline.js";
import { evaluate } from "../src/scoring/evaluate.js";

const MODELS = path.join(import.meta.dirname, "../models");

function sizeOfFolder(folder: string): number {
  const entries = readdirSync(folder, { recursive: true, encoding: "utf8" }).map((entry) =>
    statSync(path.join(folder, entry)),
  );
  return entries.reduce((total, entry) => total + (entry.isFile() ? entry.size : 0), 0);
}

describe("the embedded model", () => {
  test("has at most 12 MB of float16 weights", async () => {
    expect(sizeOfFolder(path.join(MODELS, "emoji-64"))).toBeLessThanOrEqual(12e6);
    const { weights } = await openPipeline(path.join(MODELS, "emoji-64"));
    for (const name of weights.names()) expect(weights.get(name)?.dtype, name).toBe("float16");
  });

  test("has one token for each prompt of the paper's lists", async () => {
    const { textEncoders } = await openPipeline(path.join(MODELS, "emoji-64"));
    const [{ tokenizer }] = textEncoders;
    const { prompts } = await loadSettings();
    for (const prompt of [...prompts.train, ...prompts.eval]) {
      expect(tokenizer.encode(prompt).ids[2], prompt).toBe(tokenizer.endId);
    }
  });
});

test.each(["aesthetic", "clip", "compressibility", "incompressibility", "count"] as const)(
  "the embedded reward %s differs between images of the model",
  async (name) => {
    const settings = await loadSettings({
      overrides: [`reward=${name}`, "sampling.steps=4", "evaluation.batch=6"].map(parseSet),
    });
    const { rewards, std } = await evaluate(settings);
    expect(rewards.every(Number.isFinite)).toBe(true);
    expect(std).toBeGreaterThan(0);
  },
);
