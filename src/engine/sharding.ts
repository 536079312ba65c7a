/** How several workers, lanes of a process or ranks of a run, share a list, and what their parts come to together. */
import { joinParts } from "../rewards/scores.js";
import type { Cost } from "./context.js";
import type { Learnt, Seen } from "./replica.js";

export function joined(all: readonly Seen[]): Seen {
  return { rewards: all.flatMap(({ rewards }) => rewards), parts: joinParts(all.map(({ parts }) => parts)) };
}

export function costOf(all: readonly { readonly cost: Cost }[]): Cost {
  return {
    unetCalls: all.reduce((sum, { cost }) => sum + cost.unetCalls, 0),
    rewardQueries: all.reduce((sum, { cost }) => sum + cost.rewardQueries, 0),
  };
}

/** What a worker tells of its part of an update, next to its gradient. */
export type Told = Pick<Learnt, "overflowed" | "loss" | "kl" | "cost">;

export function summed(all: readonly Told[]): Told {
  return {
    overflowed: all.some((each) => each.overflowed),
    loss: all.reduce((sum, { loss }) => sum + loss, 0),
    ...(all[0]?.kl !== undefined && { kl: all.reduce((sum, { kl }) => sum + (kl ?? 0), 0) }),
    cost: costOf(all),
  };
}
