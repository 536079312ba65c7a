import { expect, test } from "vitest";
import { TINY_SD } from "../../test/tiny.js";
import { modelMetadata } from "./model-metadata.js";
import { openPipeline } from "./pipeline.js";

test("an adapter's header gives the resolution that it was trained at, and what the model predicts", async () => {
  const pipeline = await openPipeline(TINY_SD);
  // The VAE of the tiny model has a factor of 4, and the model's own size is 32x32 pixels.
  expect(modelMetadata(pipeline, "mine", { height: 16, width: 8 })).toMatchObject({
    "modelspec.title": "mine",
    "modelspec.resolution": "32x64",
    "modelspec.prediction_type": "epsilon",
  });
  const scheduler = { ...pipeline.scheduler, prediction_type: "sample" } as const;
  const other = modelMetadata({ ...pipeline, scheduler }, "mine", { height: 8, width: 8 });
  expect(other).not.toHaveProperty(["modelspec.prediction_type"]);
});
