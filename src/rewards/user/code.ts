/**
 * A reward made in code (`defineReward`) and passed to `train`, `evaluate` or `score`. A run records it by its title, so that
 * the run is not resumed or evaluated with another reward by mistake.
 */
import { z } from "zod";
import { InputError } from "../../errors/index.js";
import { MAXIMIZE, rewardKind } from "../kind.js";

export const code = rewardKind({
  schema: z.strictObject({
    name: z.literal("code"),
    /** Name of the reward. */
    title: z.string().max(4096),
  }),
  loss: MAXIMIZE,
  open({ title }) {
    throw new InputError(
      "reward-invalid",
      `reward: ${title} was made in code, so a recipe cannot open it. Pass it to the function as its option reward, or choose another reward.`,
      { setting: "reward", reward: title },
    );
  },
});
