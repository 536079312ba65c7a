/** Every estimator end to end on the tiny model: training, cost, and resuming. */

import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { tinySettings } from "../../test/tiny.js";
import type { Settings, SettingsInput } from "../config/settings.js";
import type { FileContent } from "../io/files.js";
import type { StepMetrics } from "../train/events.js";
import { plan } from "../train/plan.js";
import { train } from "../train/trainer.js";
import { PEFT_FILE } from "../weights/lora-files.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-estimators-"));
afterAll(() => rm(scratch, { recursive: true }));

interface Run {
  readonly rows: Omit<StepMetrics, "seconds" | "peak_rss_bytes">[];
  readonly evaluated: number[];
  readonly adapter: Buffer | undefined;
}

/** `folder` receives the checkpoint of step `at`, or of every step in turn, so that the last one stays. */
async function run(settings: Settings, folder?: string, resume?: string, at?: number): Promise<Run> {
  const rows: Run["rows"] = [];
  const evaluated: number[] = [];
  let adapter: Buffer | undefined;
  const bytes = (content: FileContent | undefined) =>
    Buffer.concat(content === undefined ? [] : content instanceof Uint8Array ? [content] : content);
  await train(
    settings,
    async (event) => {
      if (event.kind === "evaluated") evaluated.push(event.result.mean);
      if (event.kind === "stepped") {
        const { seconds: _, peak_rss_bytes: __, ...row } = event.metrics;
        rows.push(row);
      }
      if (event.kind !== "checkpointed") return;
      adapter = bytes(event.files.get(PEFT_FILE));
      for (const [name, content] of folder && event.step === (at ?? event.step) ? event.files : []) {
        const path = join(folder as string, name);
        await mkdir(dirname(path), { recursive: true });
        await writeFile(path, bytes(content));
      }
    },
    { resume },
  );
  return { rows, evaluated, adapter };
}

describe("a reward without a gradient", async () => {
  const file = join(scratch, "score.cjs");
  // The reward is the size of the image file in kilobytes.
  await writeFile(file, "console.log(require('fs').statSync(process.argv[2]).size / 1000)");
  const reward = { name: "program" as const, command: [process.execPath, file] as [string, string] };

  test("is refused by an estimator that needs one, which suggests those that do not", async () => {
    await expect(run(tinySettings({ reward }))).rejects.toThrow(
      inputError("reward-no-gradient", { reward: "node", suggestions: ["ddpo", "rwr"] }),
    );
  });

  test("can be trained on with ddpo, and scores the evaluation as well", async () => {
    const { rows, evaluated } = await run(
      tinySettings({
        reward,
        estimator: { name: "ddpo", updates: 1 },
        sampling: { steps: 2, eta: 1 },
        batch: { samples_per_epoch: 2, total: 2, per_device: 2 },
        steps: 1,
      }),
    );
    expect(rows[0]).toMatchObject({ reward_queries: 2, unet_calls: 2 * 2 * 3 });
    expect(rows[0]?.grad_norm).toBeGreaterThan(0);
    expect(evaluated.every((mean) => mean > 0.1 && mean < 10)).toBe(true);
  });
});

const ESTIMATORS: Record<string, SettingsInput> = {
  "draft of every step": { estimator: { name: "draft", k: null } },
  "draft-lv": { estimator: { name: "draft-lv", noises: 2 } },
  "draft with a KL penalty": { estimator: "draft", kl: { weight: 0.5 }, lora: { rank: 2 } },
  refl: { estimator: { name: "refl", low: 1 } },
  "adjoint-matching": { estimator: "adjoint-matching", sampling: { steps: 3, eta: 1 } },
  ddpo: {
    estimator: { name: "ddpo", min_count: 2, buffer_size: 4, inner_epochs: 2 },
    sampling: { steps: 3, eta: 1 },
  },
  rwr: { estimator: "rwr" },
};

test("the KL penalty against the starting adapter works after that adapter is gone", async () => {
  const start = await mkdtemp(join(scratch, "start"));
  await run(tinySettings({ optimizer: { learning_rate: 0.05 }, steps: 1 }), start);
  const settings = (steps: number) => tinySettings({ lora: { start }, kl: { weight: 1 }, estimator: "draft", steps });
  const whole = await run(settings(2));
  const folder = await mkdtemp(join(scratch, "resume"));
  await run(settings(1), folder);
  await rm(start, { recursive: true });
  const resumed = await run(settings(2), undefined, folder);
  expect(resumed.rows).toEqual(whole.rows.slice(1));
  // In the first step the model is its own base model, up to the rounding of different programs.
  const [first, second] = whole.rows.map(({ kl }) => kl as number);
  expect(first).toBeLessThan(1e-9);
  expect(second).toBeGreaterThan(1e-7);
});

for (const [name, changes] of Object.entries(ESTIMATORS)) {
  describe(name, () => {
    const settings = (steps: number) => tinySettings({ ...changes, evaluation: { every: 4, batch: 2 }, steps });

    let folder: string;
    let whole: Run;
    beforeAll(async () => {
      folder = await mkdtemp(join(scratch, "resume"));
      whole = await run(settings(4), folder, undefined, 2);
    });

    test("trains, and after an interruption goes on with the very numbers of a run in one go", async () => {
      const resumed = await run(settings(4), undefined, folder);
      expect(whole.rows).toHaveLength(4);
      for (const { grad_norm } of whole.rows) expect(grad_norm).toBeGreaterThan(0);
      expect(resumed.rows).toEqual(whole.rows.slice(2));
      expect(resumed.adapter).toEqual(whole.adapter);
    });

    test("costs what its plan counts", async () => {
      const one = settings(1);
      const [row] = whole.rows;
      const counted = await plan(one, { calibrate: false });
      const { unetForwardCallsPerStep, unetBackwardCallsPerStep, unetRecomputedCallsPerStep } = counted;
      const calls = unetForwardCallsPerStep + unetBackwardCallsPerStep + unetRecomputedCallsPerStep;
      // ReFL's samples do not fill every backward call.
      if (name === "refl") expect(row?.unet_calls).toBeLessThanOrEqual(calls * one.batch.per_device);
      else expect(row?.unet_calls).toBe(calls * one.batch.per_device);
      expect(row?.reward_queries).toBe(counted.rewardCallsPerStep * one.batch.per_device);
    });
  });
}
