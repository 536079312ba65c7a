/**
 * How many there are: minus the distance between the number of objects that is expected of a picture and the number that
 * is wanted.
 *
 * With a detector (YOLOS, Fang et al. 2021, arXiv 2106.00666, or DETR, Carion et al. 2020, arXiv 2005.12872) the expected
 * number is the sum over its detections of the probability that they are the object: such a detector is trained to claim
 * each object once. Without one it is the embedded model's own judge of numbers, which knows one to four equal drawn
 * animals, of whatever kind.
 *
 * - Input: for a detector resized to the size of preprocessor_config.json, bilinear and without antialiasing, and
 *   normalised by it; for the embedded judge to 64x64.
 * - Range: 0 where the number is right, negative elsewhere.
 * - Weights: such as `hustvl/yolos-tiny` or `facebook/detr-resnet-50` of the hub (Apache-2.0), which know the 80 classes of
 *   COCO; the embedded ones are this package's own (Apache-2.0).
 */
import { z } from "zod";
import { InputError, nearest } from "../../errors/index.js";
import type { Value } from "../../graph/value.js";
import { expectedCount, openCountHead } from "../../models/heads/count.js";
import { abs, add, constant, input, neg, reshape, resizeBilinear, slice, sub, sum } from "../../ops/index.js";
import { fromNumbers } from "../../tensor/host.js";
import { modelFiles } from "../../weights/hub/model-files.js";
import type { WeightSource } from "../../weights/source.js";
import { common, MAXIMIZE, type Opening, place, rewardKind } from "../kind.js";
import type { Reward, RewardGraph } from "../reward.js";
import { type Detector, openDetector } from "../towers/detector.js";

const word = z.string().min(1).max(200);

export const count = rewardKind({
  schema: z.strictObject({
    name: z.literal("count"),
    ...common,
    /** How many; `prompt`: the number that each prompt names, one where it names none. */
    count: z.union([z.number().min(0).max(1000), z.literal("prompt")]).default("prompt"),
    /** What is counted, by the detector's name for it; of several kinds all together. */
    object: z
      .union([word, z.array(word).min(1).max(100)])
      .nullable()
      .default(null),
    /** A YOLOS or DETR in transformers' layout: a folder, or an id of the hub. `null`: the embedded judge of numbers. */
    detector: place.nullable().default(null),
    /** The shorter side that a detector sees pictures at; `null`: its own. Smaller is faster. */
    size: z.int().min(16).max(4096).nullable().default(null),
  }),
  loss: MAXIMIZE,
  async open({ count: wanted, object, detector, size, batch }, opening) {
    const { weights, expected } = await openCounter({ object, detector, size }, opening);
    return {
      name: "count",
      weights,
      ...(batch !== null && { batch }),
      build(images): RewardGraph {
        const asked = wanted === "prompt";
        const target = asked ? input([images.shape[0] as number]) : constant([wanted], [1]);
        return { rewards: neg(abs(sub(expected(images), target))), inputs: asked ? { reward_count: target } : {} };
      },
      feeds: (prompts): ReturnType<Reward["feeds"]> =>
        wanted === "prompt" ? { reward_count: fromNumbers(prompts.map(numberIn), [prompts.length]) } : {},
      warnings: () => [],
    };
  },
});

interface Counter {
  readonly weights: WeightSource;
  /** images [b, 3, h, w] in 0 … 1 → expected numbers [b] */
  expected(images: Value): Value;
}

async function openCounter(
  { object, detector, size }: { object: string | string[] | null; detector: string | null; size: number | null },
  opening: Opening,
): Promise<Counter> {
  if (detector === null) {
    if (object !== null) {
      throw new InputError(
        "reward-invalid",
        "reward.object: the embedded judge of numbers counts animals of any kind; leave it out, or name a detector (reward.detector)",
      );
    }
    const head = await openCountHead(await opening.find("models/rewards/count", modelFiles), `${opening.root}.count`);
    const { imageSize: side } = head.config;
    return {
      weights: head.weights,
      expected: (images) => expectedCount(head.scope, head.config, resizeBilinear(images, [side, side])),
    };
  }
  if (object === null) {
    throw new InputError("reward-invalid", "reward.object: name what the detector counts, such as object: dog");
  }
  const opened = await openDetector(detector, size, opening);
  const classes = [object].flat().map((name) => classOf(name, opened));
  return {
    weights: opened.weights,
    expected(images) {
      const probabilities = opened.detect(images);
      const [b, detections] = probabilities.shape as [number, number, number];
      const each = classes.map((at) => reshape(slice(probabilities, 2, at, at + 1), [b, detections]));
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
  const near = nearest(name, known);
  throw new InputError(
    "reward-invalid",
    `reward.object: the detector in ${path} knows no ${JSON.stringify(name)}${near ? `; did you mean ${near}?` : ""} It knows ${known.slice(0, 100).join(", ")}${known.length > 100 ? ", …" : ""}`,
  );
}

const NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];

/** The first number that a prompt names, in digits or as a word; one where it names none. */
export function numberIn(prompt: string): number {
  for (const token of prompt.toLowerCase().match(/\d+|[a-z]+/g) ?? []) {
    const value = /^\d/.test(token) ? Number(token) : NUMBERS.indexOf(token);
    if (value >= 0 && value <= 1000) return value;
  }
  return 1;
}
