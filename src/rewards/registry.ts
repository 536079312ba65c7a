/** The registry of rewards, their settings in a recipe, and how they are opened. */
import { z } from "zod";
import { MODULE_FILE } from "../io/user-module.js";
import { aesthetic } from "./builtin/aesthetic.js";
import { clip } from "./builtin/clip.js";
import { compressibility, incompressibility } from "./builtin/compressibility.js";
import { count } from "./builtin/count.js";
import { hps } from "./builtin/hps.js";
import { imageReward } from "./builtin/image-reward.js";
import { pickscore } from "./builtin/pickscore.js";
import { COMBINATION_LOSS, combination, partKeys, partSettings } from "./combination.js";
import type { DefaultLoss, OpenContext, RewardKind } from "./kind.js";
import type { Reward } from "./reward.js";
import { code } from "./user/code.js";
import { module } from "./user/module.js";
import { ONNX_FILE, onnx } from "./user/onnx.js";
import { program } from "./user/program.js";

/** Every reward by its name. A new one is added here only. */
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
  code,
} as const;

export type RewardName = keyof typeof REWARDS;

/** Rewards that need a file, a command or code, so that the name alone does not select one. */
const NEEDS_SETTINGS: readonly RewardName[] = ["module", "onnx", "program", "code"];

/** The names that `--reward` takes. */
export const rewardNames = (Object.keys(REWARDS) as RewardName[]).filter((name) => !NEEDS_SETTINGS.includes(name));

/** Whether the value of `--reward`, or of `reward` in a recipe, is a file: an ONNX model or a module. */
export const isRewardFile = (name: string): boolean => MODULE_FILE.test(name) || ONNX_FILE.test(name);

type SingleSchema = (typeof REWARDS)[RewardName]["schema"];
/** The settings of a reward with those of a part, for each reward. */
type PartSchema = WithPartKeys<SingleSchema>;
type WithPartKeys<S> =
  S extends z.ZodObject<infer Shape, infer Config>
    ? z.ZodObject<z.core.util.Extend<Shape, typeof partKeys>, Config>
    : never;

const singleSchemas = Object.values(REWARDS).map(({ schema }) => schema) as [SingleSchema, ...SingleSchema[]];
const partSchemas = singleSchemas.map((schema: z.ZodObject) => schema.extend(partKeys)) as unknown as [
  PartSchema,
  ...PartSchema[],
];

const combined = z.strictObject({
  name: z.literal("combination"),
  combine: z
    .array(z.preprocess(asMapping, z.discriminatedUnion("name", partSchemas)))
    .min(1)
    .max(20),
});

export type SingleSettings = z.output<SingleSchema>;

/** `reward` in a recipe: a name, a file, a mapping with a name, or a list of these, which is their weighted sum. */
export const rewardSettings = z.preprocess(asMapping, z.discriminatedUnion("name", [...singleSchemas, combined]));

export type RewardSettings = z.output<typeof rewardSettings>;

/** Expands the short forms of `reward`, such as the name of a file, to a mapping with a name. */
export function asMapping(value: unknown): unknown {
  if (typeof value === "string" && ONNX_FILE.test(value)) return { name: "onnx", file: value };
  if (typeof value === "string") return MODULE_FILE.test(value) ? { name: "module", file: value } : { name: value };
  if (Array.isArray(value)) return { name: "combination", combine: value };
  if (typeof value === "object" && value !== null && "combine" in value) return { name: "combination", ...value };
  return value;
}

/** The loss for a recipe that does not set one. */
export function defaultLoss({ name }: RewardSettings): DefaultLoss {
  return name === "combination" ? COMBINATION_LOSS : REWARDS[name].loss;
}

/** A short name for titles and progress lines, such as `aesthetic + clip` or the name of a file. */
export function rewardTitle(settings: RewardSettings): string {
  switch (settings.name) {
    case "combination":
      return settings.combine.map((part) => part.label ?? rewardTitle(part)).join(" + ");
    case "onnx":
      return settings.file.replace(/^.*[/\\]/, "");
    case "module":
      return settings.file.replace(/^.*[/\\]/, "").replace(MODULE_FILE, "");
    case "code":
      return settings.title;
    default:
      return settings.name;
  }
}

/**
 * Loads a reward. `context.root` is the prefix of its tensors' names, by default `reward`.
 *
 * @throws InputError if the files of the reward are missing or do not fit together.
 */
export async function openReward(
  settings: RewardSettings,
  { find, root = "reward" }: Pick<OpenContext, "find"> & Partial<OpenContext>,
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

async function openSingle(settings: SingleSettings, context: OpenContext): Promise<Reward> {
  // `settings` were parsed with the schema of this kind.
  const kind = REWARDS[settings.name] as unknown as RewardKind;
  return kind.open(settings, context);
}
