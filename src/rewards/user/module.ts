/**
 * A reward from a file of the user's: a JavaScript module whose default export is a reward or a function that makes one
 * (`define.ts`). It is the user's own program and runs as such: give no file that you would not run yourself.
 */
import { stat } from "node:fs/promises";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { z } from "zod";
import { InputError } from "../../errors/index.js";
import { input } from "../../ops/index.js";
import { common, MAXIMIZE, rewardKind } from "../kind.js";
import type { Reward } from "../reward.js";
import { defineReward, ops, type RewardModule } from "./define.js";

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
    const what = `reward ${file}`;
    const reward = await openModule(what, file, (made) => (made as MakesReward)({ defineReward, ops, root }, options));
    if (!isReward(reward)) {
      throw new InputError(
        "reward-invalid",
        `reward ${file}: its default export is no reward. Export what defineReward makes, or a function (toolkit, options) => reward`,
      );
    }
    try {
      reward.build(input([2, 3, 64, 64]));
    } catch (error) {
      refuse(what, "its graph cannot be built", error);
    }
    return batch === null ? reward : { ...reward, batch };
  },
});

type MakesReward = Extract<RewardModule, (...args: never[]) => unknown>;

/** The default export of a module of the user's; where it is a function, what `make` gets from it. */
export async function openModule(what: string, file: string, make: (made: unknown) => unknown): Promise<unknown> {
  const path = resolve(file);
  if ((await stat(path).catch(() => undefined))?.isFile() !== true)
    throw new InputError("reward-invalid", `${what}: no such file`);
  const imported: { default?: unknown } = await import(pathToFileURL(path).href).catch((error) =>
    refuse(what, "cannot be imported", error),
  );
  const made = imported.default;
  if (typeof made !== "function") return made;
  return await Promise.resolve()
    .then(() => make(made))
    .catch((error) => refuse(what, "its function failed", error));
}

function refuse(what: string, why: string, error: unknown): never {
  if (error instanceof InputError) throw error;
  throw new InputError("reward-invalid", `${what}: ${why}: ${error instanceof Error ? error.message : String(error)}`);
}

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
