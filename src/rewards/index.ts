import { z } from "zod";
import { aesthetic } from "./builtin/aesthetic.js";
import { clip } from "./builtin/clip.js";
import { compressibility, incompressibility } from "./builtin/compressibility.js";
import { count } from "./builtin/count.js";
import { hps } from "./builtin/hps.js";
import { imageReward } from "./builtin/image-reward.js";
import { pickscore } from "./builtin/pickscore.js";
import { COMBINATION_LOSS, combination, partKeys, partSettings } from "./combination.js";
import type { DefaultLoss, Opening, RewardKind } from "./kind.js";
import type { Reward } from "./reward.js";
import { MODULE_FILE, module } from "./user/module.js";
import { ONNX_FILE, onnx } from "./user/onnx.js";
import { program } from "./user/program.js";

export { type Opening, pathsOnly } from "./kind.js";
export type { Reward, RewardGraph, RewardPart } from "./reward.js";

/** Every reward by its name. */
const REWARDS = {
  aesthetic,
  hps,
  pickscore,
  "image-reward": imageReward,
  clip,
  compressibility,
  incompressibility,
  count,
  onnx,
  module,
  program,
} as const;

export type RewardName = keyof typeof REWARDS;

/** The names that `--reward` takes; others are given as their file, or in a recipe. */
export const rewardNames = (Object.keys(REWARDS) as RewardName[]).filter(
  (name) => name !== "module" && name !== "onnx" && name !== "program",
);

/** Whether `--reward` or a recipe names a reward's file: an ONNX model or a module. */
export const isRewardFile = (text: string): boolean => MODULE_FILE.test(text) || ONNX_FILE.test(text);

const kinds = [
  aesthetic.schema,
  hps.schema,
  pickscore.schema,
  imageReward.schema,
  clip.schema,
  compressibility.schema,
  incompressibility.schema,
  count.schema,
  onnx.schema,
  module.schema,
  program.schema,
] as const;

const single = z.discriminatedUnion("name", kinds);
const parts = z.discriminatedUnion("name", [
  aesthetic.schema.extend(partKeys),
  hps.schema.extend(partKeys),
  pickscore.schema.extend(partKeys),
  imageReward.schema.extend(partKeys),
  clip.schema.extend(partKeys),
  compressibility.schema.extend(partKeys),
  incompressibility.schema.extend(partKeys),
  count.schema.extend(partKeys),
  onnx.schema.extend(partKeys),
  module.schema.extend(partKeys),
  program.schema.extend(partKeys),
]);
const combined = z.strictObject({
  name: z.literal("combination"),
  combine: z.array(z.preprocess(asMapping, parts)).min(1).max(20),
});

export type SingleSettings = z.output<typeof single>;

/** A reward in a recipe: a name, a module's file, a mapping with a name, or a list of any of these for their sum. */
export const rewardSettings = z.preprocess(asMapping, z.discriminatedUnion("name", [...kinds, combined]));

export type RewardSettings = z.output<typeof rewardSettings>;

function asMapping(value: unknown): unknown {
  if (typeof value === "string" && ONNX_FILE.test(value)) return { name: "onnx", file: value };
  if (typeof value === "string") return MODULE_FILE.test(value) ? { name: "module", file: value } : { name: value };
  if (Array.isArray(value)) return { name: "combination", combine: value };
  if (typeof value === "object" && value !== null && "combine" in value) return { name: "combination", ...value };
  return value;
}

/** What the loss is where a recipe does not say. */
export function defaultLoss({ name }: RewardSettings): DefaultLoss {
  return name === "combination" ? COMBINATION_LOSS : REWARDS[name].loss;
}

/** What a reward is called where there is no room for its settings. */
export function rewardTitle(settings: RewardSettings): string {
  switch (settings.name) {
    case "combination":
      return settings.combine.map((part) => part.label ?? rewardTitle(part)).join(" + ");
    case "onnx":
      return settings.file.replace(/^.*[/\\]/, "");
    case "module":
      return settings.file.replace(/^.*[/\\]/, "").replace(MODULE_FILE, "");
    default:
      return settings.name;
  }
}

export async function openReward(
  settings: RewardSettings,
  { find, root = "reward" }: Pick<Opening, "find"> & Partial<Opening>,
): Promise<Reward> {
  if (settings.name !== "combination") return openSingle(settings, { find, root });
  const members = [];
  for (const [i, part] of settings.combine.entries()) {
    members.push({
      reward: await openSingle(part, { find, root: `${root}.${i}` }),
      settings: partSettings.parse(part),
    });
  }
  return combination(members);
}

async function openSingle(settings: SingleSettings, opening: Opening): Promise<Reward> {
  // The schema of the same name has judged these settings.
  const kind = REWARDS[settings.name] as unknown as RewardKind;
  return kind.open(settings, opening);
}
