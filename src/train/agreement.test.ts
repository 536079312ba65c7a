import { expect, test } from "vitest";
import { tinySettings } from "../../test/tiny.js";
import { type Cluster, singleProcess } from "../cluster/cluster.js";
import { shareOf } from "../cluster/share.js";
import { checksum } from "../engine/ranks.js";
import { InputError } from "../errors/index.js";
import { type Facts, requireAgreement, together } from "./agreement.js";

/** Ranks within one process, which meet whenever all have come to gather something. */
function ranks(size: number): Cluster[] {
  let come: { rank: number; value: unknown; go: (values: unknown[]) => void }[] = [];
  return Array.from({ length: size }, (_, rank) => ({
    ...singleProcess(),
    rank,
    size,
    hosts: ["a", "b", "c"],
    allGather: <T>(value: T) =>
      new Promise<T[]>((resolve) => {
        come.push({ rank, value, go: resolve as (values: unknown[]) => void });
        if (come.length < size) return;
        const values = come.toSorted((a, b) => a.rank - b.rank).map((each) => each.value);
        for (const { go } of come) go(values);
        come = [];
      }),
  }));
}

const facts = (changes: Partial<Facts> = {}): Facts => ({
  settings: tinySettings(),
  precision: "float32",
  model: "m",
  reward: "r",
  step: 0,
  state: 1,
  ...changes,
});

const agreed = (...all: Facts[]) =>
  Promise.all(ranks(all.length).map((cluster, i) => requireAgreement(cluster, all[i] as Facts)));

test("ranks that train the same begin", async () => {
  const local = { ...tinySettings(), threads: 7, out: "elsewhere", model: "/mnt/model" };
  await expect(agreed(facts(), facts(), facts({ settings: local }))).resolves.toBeDefined();
});

test("ranks that would train something else are refused, with what differs", async () => {
  const settings = tinySettings({ lora: { rank: 4 } });
  await expect(agreed(facts(), facts({ settings }))).rejects.toThrow(
    "lora.rank is 4 on rank 1 (b), but 2 on rank 0 (a); all ranks must train the same",
  );
  await expect(agreed(facts(), facts(), facts({ model: "n" }))).rejects.toThrow(
    /fingerprint of the model's weights is n on rank 2 \(c\), but m on rank 0/,
  );
  await expect(agreed(facts(), facts({ precision: "float16" }))).rejects.toThrow(/precision is float16 on rank 1/);
  await expect(agreed(facts(), facts({ step: 10 }))).rejects.toThrow(/goes on from is 10 on rank 1/);
});

test("an error of all ranks is told as it is, and one of some with their name", async () => {
  const [a, b] = ranks(2) as [Cluster, Cluster];
  const fail = (message: string) => async () => {
    throw new InputError("not-finite", message);
  };
  const both = Promise.allSettled([together(a, fail("no such model")), together(b, fail("no such model"))]);
  const messages = (results: PromiseSettledResult<unknown>[]) =>
    results.map((result) => (result.status === "rejected" ? result.reason.message : "fine"));
  expect(messages(await both)).toEqual(["no such model", "no such model"]);
  const one = Promise.allSettled([together(a, async () => 1), together(b, fail("no such model"))]);
  expect(messages(await one)).toEqual(["rank 1 (b): no such model", "rank 1 (b): no such model"]);
  expect(await Promise.all([together(a, async () => 1), together(b, async () => 2)])).toEqual([1, 2]);
});

test("ranks take neighbouring parts, each as much while it lasts", () => {
  const parts = (count: number, size: number) =>
    Array.from({ length: size }, (_, rank) => shareOf([...Array(count).keys()], { rank, size }));
  expect(parts(6, 3)).toEqual([
    [0, 1],
    [2, 3],
    [4, 5],
  ]);
  expect(parts(5, 3)).toEqual([[0, 1], [2, 3], [4]]);
  expect(parts(1, 3)).toEqual([[0], [], []]);
});

test("a checksum tells neighbouring numbers apart", () => {
  const values = Float32Array.of(1, 2, 3);
  const next = Float32Array.of(1, 2, 3 + 2 ** -22);
  expect(checksum(values)).not.toBe(checksum(next));
  expect(checksum(values)).toBe(checksum(values.slice()));
});
