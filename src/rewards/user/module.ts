/**
 * A reward in a JavaScript module of the user, whose default export is a reward or a function that returns one
 * (`define.ts`). The module runs with all rights of this process.
 */
import { z } from "zod";
import { InputError } from "../../errors/index.js";
import { loadUserModule, MODULE_FILE, type UserModule, userModuleError } from "../../io/user-module.js";
import { input } from "../../ops/index.js";
import { commonSettings, MAXIMIZE, rewardKind } from "../kind.js";
import type { Reward } from "../reward.js";
import { defineReward, ops, type RewardModule } from "./define.js";

export const module = rewardKind({
  schema: z.strictObject({
    name: z.literal("module"),
    ...commonSettings,
    file: z.string().min(1).max(4096).regex(MODULE_FILE, "must be a .js or .mjs file; compile TypeScript first (tsc)"),
    /** Second argument of the module's function. */
    options: z.record(z.string(), z.unknown()).default({}),
  }),
  loss: MAXIMIZE,
  async open({ file, options, batch }, { root }) {
    const source: UserModule = { kind: "reward", file };
    const reward = await loadUserModule(source, (create) =>
      (create as CreateReward)({ defineReward, ops, root }, options),
    );
    if (!isReward(reward)) {
      throw new InputError(
        "reward-invalid",
        `reward ${file}: the default export is not a reward. Export the result of defineReward(), or a function (toolkit, options) => reward.`,
        { path: file, expected: "reward" },
      );
    }
    try {
      reward.build(input([2, 3, 64, 64]));
    } catch (error) {
      throw userModuleError(source, "its graph cannot be built", error);
    }
    return batch === null ? reward : { ...reward, batch };
  },
});

type CreateReward = Extract<RewardModule, (...args: never[]) => unknown>;

function isReward(value: unknown): value is Reward {
  const keys = ["build", "feeds", "warnings"] as const;
  return (
    typeof value === "object" &&
    value !== null &&
    typeof (value as Reward).name === "string" &&
    typeof (value as Reward).weights?.names === "function" &&
    keys.every((key) => typeof (value as Reward)[key] === "function")
  );
}
