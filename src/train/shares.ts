/** How several workers, lanes of a process or ranks of a run, share a list, and what their parts come to together. */
import { joinParts } from "./judge.js";
import type { Learnt, Seen } from "./learner.js";
import type { Cost } from "./toolbox.js";

/** A worker's part of a list, in the order of workers; the last ones may have less. */
export function shareOf<T>(items: readonly T[], { rank, size }: { readonly rank: number; readonly size: number }): T[] {
  const share = Math.ceil(items.length / size);
  return items.slice(rank * share, (rank + 1) * share);
}

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
