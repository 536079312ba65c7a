import { expect, test } from "vitest";
import { FlowNetwork } from "./min-cut.js";

function network(size: number, edges: readonly (readonly [number, number, number])[]): FlowNetwork {
  const net = new FlowNetwork();
  for (let i = 0; i < size; i++) net.vertex();
  for (const [from, to, capacity] of edges) net.edge(from, to, capacity);
  return net;
}

test("cuts the cheapest edges between source and sink", () => {
  // 0 → 1 → 3 and 0 → 2 → 3 with a bridge 1 → 2; cutting 0 → 2 (1) and what leaves 1 (2 + 1) costs 4.
  const net = network(4, [
    [0, 1, 9],
    [0, 2, 1],
    [1, 3, 2],
    [1, 2, 1],
    [2, 3, 9],
  ]);
  expect(net.sinkSide(0, 3)).toEqual(new Set([3, 2]));
});

test("of equal cuts takes the one nearest to the sink", () => {
  const net = network(4, [
    [0, 1, Number.POSITIVE_INFINITY],
    [1, 2, 5],
    [2, 3, 5],
  ]);
  expect(net.sinkSide(0, 3)).toEqual(new Set([3]));
});

test("takes flow back where an earlier path was in the way", () => {
  // The shortest path 0 → 1 → 4 → 5 blocks the others unless half of it goes round: the maximum flow is 2.
  const net = network(6, [
    [0, 1, 1],
    [0, 2, 1],
    [1, 4, 1],
    [1, 3, 1],
    [2, 4, 1],
    [3, 5, 1],
    [4, 5, 1],
  ]);
  // All of 0's edges and all of 5's are full, so the cut nearest to the sink is around the sink.
  expect(net.sinkSide(0, 5)).toEqual(new Set([5]));
});
