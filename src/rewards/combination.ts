/**
 * A weighted sum of rewards. A part with the reward r adds
 *
 *     weight · scale · c(r)        or, with a target,        - weight · scale · |c(r) - target|
 *
 * where c clamps r to bounds. Outside of them the gradient is zero, so the model gains nothing by overdoing one part. `scale`
 * brings rewards of different magnitude together; `weight` is the importance of a part. With a `share` below 1, a part only
 * scores that share of the prompts, and always the same ones. The shares of parts follow one another, so two parts with a
 * share of 0.5 each divide the prompts between them.
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

/** Settings of a part, in addition to those of its reward. */
export const partKeys = {
  /** Name in metrics; `null`: the name of the reward. */
  label: z
    .string()
    .max(60)
    .regex(/^[\w][\w.-]*$/, "letters, digits, dots, dashes and underscores only")
    .nullable()
    .default(null),
  /** A negative weight minimizes the reward. */
  weight: z.number().default(1),
  scale: z.number().positive().default(1),
  /** Desired reward; `null`: as high as possible. */
  target: z.number().nullable().default(null),
  /** [min, max]; `null` for a bound leaves that side open. */
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

/**
 * Sums rewards. The tensors of the members must differ in name (`OpenContext.root`). The inputs of a member's graph are
 * renamed with its index.
 *
 * @throws InputError `reward-invalid` if two members have a tensor of the same name.
 */
export function combination(members: readonly { readonly reward: Reward; readonly settings: PartSettings }[]): Reward {
  const parts = partsOf(members);
  requireUniqueTensors(parts);
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
        const summand = weigh(built.rewards);
        if (!masked[i]) return summand;
        const mask = input([images.shape[0] as number]);
        inputs[inputName(i, "reward_judged")] = mask;
        return mul(summand, mask);
      });
      return { rewards: summands.reduce((total, summand) => add(total, summand)), inputs, values };
    },
    feeds(prompts) {
      const all: Record<string, HostTensor> = {};
      for (const [i, { reward, appliesTo }] of parts.entries()) {
        for (const [name, tensor] of Object.entries(reward.feeds(prompts))) all[inputName(i, name)] = tensor;
        if (masked[i]) {
          const mask = prompts.map((prompt) => (appliesTo(prompt) ? 1 : 0));
          all[inputName(i, "reward_judged")] = fromNumbers(mask, [prompts.length]);
        }
      }
      return all;
    },
    warnings: (prompts) => parts.flatMap(({ reward, appliesTo }) => reward.warnings(prompts.filter(appliesTo))),
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
      label: uniqueLabel(settings.label ?? reward.name, counts),
      reward,
      weigh: (rewards) => weighted(rewards, settings),
      // A share wraps around: one of 0.5 that starts at 0.8 ends at 0.3.
      appliesTo: (prompt) => share === 1 || (position(prompt) - from + 1) % 1 < share,
    };
  });
}

function weighted(rewards: Value, { weight, scale, target, clamp }: PartSettings): Value {
  const [low, high] = clamp ?? [null, null];
  const clamped = clamp ? clip(rewards, low ?? -Number.MAX_VALUE, high ?? Number.MAX_VALUE) : rewards;
  return mul(target === null ? clamped : neg(abs(sub(clamped, target))), weight * scale);
}

/** Numbers repeated labels: aesthetic, aesthetic-2, … */
function uniqueLabel(label: string, counts: Map<string, number>): string {
  const seen = (counts.get(label) ?? 0) + 1;
  counts.set(label, seen);
  return seen === 1 ? label : uniqueLabel(`${label}-${seen}`, counts);
}

/**
 * Hashes a prompt to a position in 0 … 1: 32-bit FNV-1a, then the finalizer of MurmurHash3, so that prompts with a common end
 * are spread out.
 */
export function position(prompt: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < prompt.length; i++) hash = Math.imul(hash ^ prompt.charCodeAt(i), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return ((hash ^ (hash >>> 16)) >>> 0) / 2 ** 32;
}

function requireUniqueTensors(parts: readonly RewardPart[]): void {
  const owners = new Map<string, string>();
  for (const { label, reward } of parts) {
    for (const name of reward.weights.names()) {
      const other = owners.get(name);
      if (other !== undefined) {
        throw new InputError(
          "reward-invalid",
          `reward: ${other} and ${label} both have a tensor ${name}. The names of a reward's tensors must start with the root that its module receives.`,
          { tensor: name, rewards: [other, label] },
        );
      }
      owners.set(name, label);
    }
  }
}
