import { type Cluster, singleProcess } from "../src/cluster/cluster.js";

/** Up to three ranks within one process, on the hosts a, b and c. They have `allGather` and `sum`. */
export function fakeRanks(size: number): Cluster[] {
  let waiting: { rank: number; value: unknown; resolve: (values: unknown[]) => void }[] = [];
  return Array.from({ length: size }, (_, rank) => {
    const allGather = <T>(value: T) =>
      new Promise<T[]>((resolve) => {
        waiting.push({ rank, value, resolve: resolve as (values: unknown[]) => void });
        if (waiting.length < size) return;
        const values = waiting.toSorted((a, b) => a.rank - b.rank).map((each) => each.value);
        for (const { resolve } of waiting) resolve(values);
        waiting = [];
      });
    return {
      ...singleProcess(),
      rank,
      size,
      hosts: ["a", "b", "c"],
      allGather,
      sum: async (values: Float64Array) => {
        const all = await allGather(values.slice());
        for (const i of values.keys()) values[i] = all.reduce((sum, each) => sum + (each[i] as number), 0);
      },
    };
  });
}
