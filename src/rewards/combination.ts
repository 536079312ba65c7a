/**
 * A weighted sum of rewards. A part with value r adds, on the pictures that it judges,
 *
 *     weight · scale · c(r)        or, with a target,        - weight · scale · |c(r) - target|
 *
 * where c clamps: beyond its bounds a reward neither gains nor pulls any more, so that nothing is won by overdoing it.
 * `scale` brings parts to one size, `weight` says what they are worth. With a `share` below 1 a part judges that share of
 * the prompts, and always the same ones; the shares lie one after another, so two parts with a half each divide the
 * prompts among them.
 */
import { z } from "zod";
import { InputError } from "../errors/index.js";
import type { Value } from "../graph/value.js";
import { abs, add, clip, input, mul, neg, sub } from "../ops/index.js";
import { fromNumbers, type HostTensor } from "../tensor/host.js";
import { merge } from "../weights/source.js";
import { MAXIMIZE } from "./kind.js";
import type { Reward, RewardPart } from "./reward.js";

const bound = z.number().nullable();

/** What a part is told beside its reward's own settings. */
export const partKeys = {
  /** Its name in metrics; `null`: the reward's. */
  label: z
    .string()
    .max(60)
    .regex(/^[\w][\w.-]*$/, "letters, digits, dots, dashes and underscores only")
    .nullable()
    .default(null),
  /** Negative: the less the better. */
  weight: z.number().default(1),
  scale: z.number().positive().default(1),
  /** The value to come close to; `null`: the higher the better. */
  target: z.number().nullable().default(null),
  /** [lowest, highest]; `null` in a place leaves that side open. */
  clamp: z
    .tuple([bound, bound])
    .refine(([low, high]) => low === null || high === null || low < high, { error: "the first must be the lower" })
    .nullable()
    .default(null),
  share: z.number().gt(0).max(1).default(1),
};

export const partSettings = z.object(partKeys);
export type PartSettings = z.output<typeof partSettings>;

export const COMBINATION_LOSS = MAXIMIZE;

/** The parts' tensors must have names of their own (`Opening.root`); their inputs get the part's number. */
export function combination(members: readonly { readonly reward: Reward; readonly settings: PartSettings }[]): Reward {
  const parts = partsOf(members);
  requireOwnNames(parts);
  const masked = members.map(({ settings }) => settings.share < 1);
  const inputName = (part: number, name: string) => name.replace(/^reward_/, `reward_${part}_`);
  return {
    name: parts.map(({ label }) => label).join(" + "),
    weights: merge(...parts.map(({ reward }) => reward.weights)),
    parts,
    build(images) {
      const inputs: Record<string, Value> = {};
      const values: Value[] = [];
      const summands = parts.map(({ reward, weigh }, i) => {
        const built = reward.build(images);
        for (const [name, value] of Object.entries(built.inputs)) inputs[inputName(i, name)] = value;
        values.push(built.rewards);
        const worth = weigh(built.rewards);
        if (!masked[i]) return worth;
        const judged = input([images.shape[0] as number]);
        inputs[inputName(i, "reward_judged")] = judged;
        return mul(worth, judged);
      });
      return { rewards: summands.reduce((total, summand) => add(total, summand)), inputs, values };
    },
    feeds(prompts) {
      const all: Record<string, HostTensor> = {};
      for (const [i, { reward, judges }] of parts.entries()) {
        for (const [name, tensor] of Object.entries(reward.feeds(prompts))) all[inputName(i, name)] = tensor;
        if (masked[i]) {
          const judged = prompts.map((prompt) => (judges(prompt) ? 1 : 0));
          all[inputName(i, "reward_judged")] = fromNumbers(judged, [prompts.length]);
        }
      }
      return all;
    },
    warnings: (prompts) => parts.flatMap(({ reward, judges }) => reward.warnings(prompts.filter(judges))),
  };
}

function partsOf(members: Parameters<typeof combination>[0]): RewardPart[] {
  const counts = new Map<string, number>();
  let start = 0;
  return members.map(({ reward, settings }): RewardPart => {
    const { share } = settings;
    const from = start;
    if (share < 1) start = (start + share) % 1;
    return {
      label: ownLabel(settings.label ?? reward.name, counts),
      reward,
      weigh: (rewards) => worth(rewards, settings),
      // Wraps around: what begins at 0.8 with a share of 0.5 ends at 0.3.
      judges: (prompt) => share === 1 || (place(prompt) - from + 1) % 1 < share,
    };
  });
}

function worth(rewards: Value, { weight, scale, target, clamp }: PartSettings): Value {
  const [low, high] = clamp ?? [null, null];
  const clamped = clamp ? clip(rewards, low ?? -Number.MAX_VALUE, high ?? Number.MAX_VALUE) : rewards;
  return mul(target === null ? clamped : neg(abs(sub(clamped, target))), weight * scale);
}

/** aesthetic, aesthetic-2, … */
function ownLabel(label: string, counts: Map<string, number>): string {
  const seen = (counts.get(label) ?? 0) + 1;
  counts.set(label, seen);
  return seen === 1 ? label : ownLabel(`${label}-${seen}`, counts);
}

/** A prompt's place in 0 … 1: FNV-1a of its characters, mixed once more so that prompts that end alike lie apart. */
export function place(prompt: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < prompt.length; i++) hash = Math.imul(hash ^ prompt.charCodeAt(i), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return ((hash ^ (hash >>> 16)) >>> 0) / 2 ** 32;
}

function requireOwnNames(parts: readonly RewardPart[]): void {
  const owners = new Map<string, string>();
  for (const { label, reward } of parts) {
    for (const name of reward.weights.names()) {
      const other = owners.get(name);
      if (other !== undefined) {
        throw new InputError(
          "reward-invalid",
          `reward: ${other} and ${label} both have a tensor ${name}; a reward of your own names its tensors below the root that it is given`,
        );
      }
      owners.set(name, label);
    }
  }
}
