import { expect, test } from "vitest";
import { plan } from "../../test/made-up-run.js";
import { settingsFrom } from "../config/load.js";
import type { StepMetrics } from "../train/events.js";
import { progress } from "./progress.js";
import type { Terminal } from "./terminal.js";

test("a resumed run compares the diversity with that of the base model", async () => {
  const said: string[] = [];
  const terminal = { isTTY: false, say: (line: string) => said.push(line) } as unknown as Terminal;
  const observe = progress(terminal, await settingsFrom({}));
  await observe({ kind: "started", plan, step: 2, baseDiversity: 0.4 });
  const metrics: StepMetrics = {
    ...{ step: 3, epoch: 0, samples: 12, loss: 1, reward_mean: 1, reward_std: 0, reward_queries: 12, unet_calls: 12 },
    ...{ grad_norm: 1, seconds: 1, peak_rss_bytes: 1 },
  };
  await observe({
    kind: "evaluated",
    step: 3,
    result: {
      prompts: [],
      seeds: [],
      rewards: [1],
      images: [],
      mean: 1,
      std: 0,
      diversity: { mean: 0.3, distances: [] },
    },
  });
  await observe({ kind: "stepped", metrics });
  expect(said.at(-1)).toContain("diversity 0.300 (75 % of the base model's)");
});
