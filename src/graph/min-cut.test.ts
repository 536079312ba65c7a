import { expect, test } from "vitest";
import { FlowNetwork } from "./min-cut.js";

function network(size: number, edges: readonly (readonly [number, number, number])[]): FlowNetwork {
  const net = new FlowNetwork();
  for (let i = 0; i < size; i++) net.vertex();
  for (const [from, to, capacity] of edges) net.edge(from, to, capacity);
  return net;
}

test("cuts the edges of least total capacity between source and sink", () => {
  // 0 → 1 → 3 and 0 → 2 → 3 with a bridge 1 → 2. The cheapest cut takes 1 → 3 (2), 1 → 2 (1) and 0 → 2 (1).
  const net = network(4, [
    [0, 1, 9],
    [0, 2, 1],
    [1, 3, 2],
    [1, 2, 1],
    [2, 3, 9],
  ]);
  expect(net.sinkSide(0, 3)).toEqual(new Set([3, 2]));
});

test("takes the cut nearest to the sink if several are minimal", () => {
  const net = network(4, [
    [0, 1, Number.POSITIVE_INFINITY],
    [1, 2, 5],
    [2, 3, 5],
  ]);
  expect(net.sinkSide(0, 3)).toEqual(new Set([3]));
});

test("redirects the flow of an earlier path", () => {
  // The shortest path 0 → 1 → 4 → 5 blocks 0 → 2 → 4 → 5 until it is redirected over 1 → 3 → 5. The maximum flow is 2.
  const net = network(6, [
    [0, 1, 1],
    [0, 2, 1],
    [1, 4, 1],
    [1, 3, 1],
    [2, 4, 1],
    [3, 5, 1],
    [4, 5, 1],
  ]);
  // All edges at 0 and all at 5 are saturated, so the cut nearest to the sink isolates the sink.
  expect(net.sinkSide(0, 5)).toEqual(new Set([5]));
});
