/**
 * A reward from a file of the user's: a JavaScript module whose default export is a reward or a function that makes one
 * (`define.ts`). It is the user's own program and runs as such: give no file that you would not run yourself.
 */
import { stat } from "node:fs/promises";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { z } from "zod";
import { input } from "../ops/index.js";
import { InputError } from "../tensor/errors.js";
import { defineReward, ops, type RewardModule } from "./define.js";
import { common, MAXIMIZE, rewardKind } from "./kind.js";
import type { Reward } from "./reward.js";

/** What Node can import; TypeScript is compiled first. */
export const MODULE_FILE = /\.(js|mjs)$/;

export const module = rewardKind({
  schema: z.strictObject({
    name: z.literal("module"),
    ...common,
    file: z.string().min(1).max(4096).regex(MODULE_FILE, "must be a .js or .mjs file; compile TypeScript first (tsc)"),
    /** Given to the module's function. */
    options: z.record(z.string(), z.unknown()).default({}),
  }),
  loss: MAXIMIZE,
  async open({ file, options, batch }, { root }) {
    const path = resolve(file);
    if ((await stat(path).catch(() => undefined))?.isFile() !== true) {
      throw new InputError(`reward ${file}: no such file`);
    }
    const fail = (what: string, error: unknown): never => {
      if (error instanceof InputError) throw error;
      throw new InputError(`reward ${file}: ${what}: ${error instanceof Error ? error.message : String(error)}`);
    };
    const imported: { default?: unknown } = await import(pathToFileURL(path).href).catch((error) =>
      fail("cannot be imported", error),
    );
    const made = imported.default as RewardModule | undefined;
    const reward: unknown =
      typeof made === "function"
        ? await Promise.resolve()
            .then(() => made({ defineReward, ops, root }, options))
            .catch((error) => fail("its function failed", error))
        : made;
    if (!isReward(reward)) {
      throw new InputError(
        `reward ${file}: its default export is no reward. Export what defineReward makes, or a function (toolkit, options) => reward`,
      );
    }
    try {
      reward.build(input([2, 3, 64, 64]));
    } catch (error) {
      fail("its graph cannot be built", error);
    }
    return batch === null ? reward : { ...reward, batch };
  },
});

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
