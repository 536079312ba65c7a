import { expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { fakeRanks } from "../../test/fake-ranks.js";
import { InputError } from "../errors/index.js";
import type { Cluster } from "./cluster.js";
import { firstOnEachHost, together } from "./collective.js";

const [a, b] = fakeRanks(2) as [Cluster, Cluster];
const fail = (message: string) => async () => {
  throw new InputError("model-not-found", message, { path: "m" });
};
const succeed = (value: number) => async () => value;

/** Runs different work on both ranks and returns what each of them throws. */
async function reasons(onA: () => Promise<unknown>, onB: () => Promise<unknown>): Promise<unknown[]> {
  const results = await Promise.allSettled([together(a, onA), together(b, onB)]);
  return results.map((result) => (result.status === "rejected" ? result.reason : "fulfilled"));
}

test("each rank gets its own result if none fails", async () => {
  expect(await Promise.all([together(a, succeed(1)), together(b, succeed(2))])).toEqual([1, 2]);
});

test("an error of all ranks keeps its code, facts and message", async () => {
  for (const error of await reasons(fail("no such model"), fail("no such model"))) {
    expect(error).toEqual(new InputError("model-not-found", "no such model", { path: "m" }));
  }
});

test("an error of rank 0 keeps its message on all ranks", async () => {
  for (const error of await reasons(fail("no such model"), succeed(2))) {
    expect(error).toEqual(new InputError("model-not-found", "no such model", { path: "m" }));
  }
});

test("an error of another rank names the rank on all ranks", async () => {
  for (const error of await reasons(succeed(1), fail("no such model"))) {
    expect(error).toEqual(inputError("model-not-found", { path: "m", rank: 1, host: "b" }));
    expect((error as Error).message).toBe("rank 1 (b): no such model");
  }
});

test("the first rank of each host works before the others", async () => {
  const order: number[] = [];
  const ranks = fakeRanks(3).map((cluster, i) => ({ ...cluster, localRank: [0, 1, 0][i] as number }));
  const results = await Promise.all(
    ranks.map((cluster) =>
      firstOnEachHost(cluster, async () => {
        order.push(cluster.rank);
        return cluster.rank;
      }),
    ),
  );
  expect(order).toEqual([0, 2, 1]);
  expect(results).toEqual([0, 1, 2]);
});
