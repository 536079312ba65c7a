import { expect, test } from "vitest";
import { tinySettings } from "../../test/tiny.js";
import { divide } from "./division.js";

test("replicas share each micro-batch and each evaluation batch", () => {
  const settings = tinySettings({
    batch: { samples_per_epoch: 8, total: 8, per_device: 4 },
    evaluation: { every: 1, batch: 3, seeds_per_prompt: 8 },
  });
  expect(divide(settings)).toEqual({ ranks: 1, localRanks: 1, replicas: 1, microBatch: 4, evaluationBatch: 3 });
  expect(divide(settings, { ranks: 2, localRanks: 2, replicas: 2 })).toEqual({
    ranks: 2,
    localRanks: 2,
    replicas: 2,
    microBatch: 2,
    evaluationBatch: 2,
  });
});
