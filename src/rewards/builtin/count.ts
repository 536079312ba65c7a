/**
 * Number of objects: minus the absolute difference between the expected number of objects in an image and the target.
 *
 * With a detector (YOLOS, Fang et al. 2021, arXiv 2106.00666, or DETR, Carion et al. 2020, arXiv 2005.12872), the expected
 * number is the sum of the probability of the object's class over all detections: such a detector is trained to detect each
 * object once. Without a detector, the embedded counting model is used, which knows one to four equal drawn animals of any
 * kind.
 *
 * - Input: for a detector, resized to the size of preprocessor_config.json, bilinear and without antialiasing, and
 *   normalized as that file says; for the embedded model, resized to 64x64.
 * - Range: 0 if the number is right, else negative.
 * - Weights: for example `hustvl/yolos-tiny` or `facebook/detr-resnet-50` on the hub (Apache-2.0), which know the 80 classes
 *   of COCO. The embedded model belongs to this package (Apache-2.0).
 */
import { z } from "zod";
import { InputError, nearest } from "../../errors/index.js";
import type { Value } from "../../graph/value.js";
import { expectedCount, openCountHead } from "../../models/heads/count.js";
import { abs, add, constant, input, neg, reshape, resizeBilinear, slice, sub, sum } from "../../ops/index.js";
import { fromNumbers } from "../../tensor/host.js";
import { modelFiles } from "../../weights/hub/model-files.js";
import type { WeightSource } from "../../weights/source.js";
import { commonSettings, location, MAXIMIZE, type OpenContext, rewardKind } from "../kind.js";
import type { Reward, RewardGraph } from "../reward.js";
import { type Detector, openDetector } from "../towers/detector.js";

const word = z.string().min(1).max(200);

export const count = rewardKind({
  schema: z.strictObject({
    name: z.literal("count"),
    ...commonSettings,
    /** The target; `prompt`: the number in each prompt, or 1 if it has none. */
    count: z.union([z.number().min(0).max(1000), z.literal("prompt")]).default("prompt"),
    /** The class or classes to count, by the detector's labels. Several are counted together. */
    object: z
      .union([word, z.array(word).min(1).max(100)])
      .nullable()
      .default(null),
    /** A folder or a hub id of a YOLOS or DETR in transformers' layout. `null`: the embedded counting model. */
    detector: location.nullable().default(null),
    /** Shorter side of the detector's input in pixels; `null`: that of its preprocessor. Smaller is faster. */
    size: z.int().min(16).max(4096).nullable().default(null),
  }),
  loss: MAXIMIZE,
  async open({ count: wanted, object, detector, size, batch }, context) {
    const { weights, expected } = await openCounter({ object, detector, size }, context);
    return {
      name: "count",
      weights,
      ...(batch !== null && { batch }),
      build(images): RewardGraph {
        const fromPrompt = wanted === "prompt";
        const target = fromPrompt ? input([images.shape[0] as number]) : constant([wanted], [1]);
        return { rewards: neg(abs(sub(expected(images), target))), inputs: fromPrompt ? { reward_count: target } : {} };
      },
      feeds: (prompts): ReturnType<Reward["feeds"]> =>
        wanted === "prompt" ? { reward_count: fromNumbers(prompts.map(numberIn), [prompts.length]) } : {},
      warnings: () => [],
    };
  },
});

interface Counter {
  readonly weights: WeightSource;
  /** images [b, 3, h, w] in 0 … 1 → expected number of objects [b] */
  expected(images: Value): Value;
}

async function openCounter(
  { object, detector, size }: { object: string | string[] | null; detector: string | null; size: number | null },
  context: OpenContext,
): Promise<Counter> {
  if (detector === null) {
    if (object !== null) {
      throw new InputError(
        "settings-conflict",
        "reward count: object only applies to a detector, because the embedded model counts animals of any kind. Remove reward.object, or set reward.detector.",
        { setting: "reward.object", found: object, missing: "reward.detector" },
      );
    }
    const head = await openCountHead(await context.find("models/rewards/count", modelFiles), `${context.root}.count`);
    const { imageSize: side } = head.config;
    return {
      weights: head.weights,
      expected: (images) => expectedCount(head.scope, head.config, resizeBilinear(images, [side, side])),
    };
  }
  if (object === null) {
    throw new InputError(
      "reward-invalid",
      "reward count: a detector needs the class to count. Set reward.object, such as object: dog.",
      { setting: "reward.object", path: detector },
    );
  }
  const opened = await openDetector(detector, size, context);
  const classes = [object].flat().map((name) => classOf(name, opened));
  return {
    weights: opened.weights,
    expected(images) {
      const probabilities = opened.detect(images);
      const [b, detections] = probabilities.shape as [number, number, number];
      const each = classes.map((at) => reshape(slice(probabilities, 2, [at, at + 1]), [b, detections]));
      return sum(
        each.reduce((total, one) => add(total, one)),
        1,
      );
    },
  };
}

function classOf(name: string, { labels, path }: Detector): number {
  const at = labels.findIndex((label) => label.toLowerCase() === name.toLowerCase());
  if (at >= 0) return at;
  const known = [...new Set(labels.filter((label) => label !== "N/A"))];
  const suggestion = nearest(name, known);
  throw new InputError(
    "reward-invalid",
    `reward count: the detector in ${path} has no class ${JSON.stringify(name)}.${suggestion ? ` Did you mean ${suggestion}?` : ""} Its classes are ${known.slice(0, 100).join(", ")}${known.length > 100 ? ", …" : ""}.`,
    { setting: "reward.object", path, found: name, expected: known, suggestion },
  );
}

const NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];

/** The first number in a prompt, in digits or as a word; 1 if there is none. */
export function numberIn(prompt: string): number {
  for (const token of prompt.toLowerCase().match(/\d+|[a-z]+/g) ?? []) {
    const value = /^\d/.test(token) ? Number(token) : NUMBERS.indexOf(token);
    if (value >= 0 && value <= 1000) return value;
  }
  return 1;
}
