/** How programs hold their weights and their memory on the CPU. */
import { type Graph, parameterElements } from "../graph/graph.js";
import type { WeightHolding } from "../onnx/lower.js";
import { programSize } from "../onnx/program-size.js";

/**
 * Programs with more weights map them by default. A packed program of Stable Diffusion 1.5 runs 5 to 10 % faster and takes
 * 5 to 27 s to compile, and its copies take once or twice the size of the file.
 */
export const PACKED_UP_TO = 2 ** 28;

/** How a program of this graph holds its weights on the CPU. `packUpTo`: bytes of its weights in float32. */
export function holdingOf(graph: Graph, packUpTo: number): WeightHolding {
  return 4 * parameterElements(graph) <= packUpTo ? "packed" : "mapped";
}

/**
 * Returns true if a program of this graph frees its working memory after each run (more than 128 MiB). An arena keeps
 * the memory and grows by doubling, which saves small programs the time for allocation. Large programs lose no time
 * without an arena, and if several run in turn, only one holds memory at a time.
 */
export function returnsMemory(graph: Graph, holding: WeightHolding): boolean {
  return programSize(graph, holding).working > 2 ** 27;
}

/** True for a program that runs after others have returned their memory: it maps its weights, or takes more than 512 MiB. */
export function isLarge(graph: Graph, holding: WeightHolding): boolean {
  const { packed, working } = programSize(graph, holding);
  return holding === "mapped" || Math.max(packed, working) > 2 ** 29;
}

/**
 * Session options for each way to hold weights. Optimizations and prepacking would fold and reorder mapped weights into copies.
 * They would gain little: graphs are written in fused operators, and large networks spend their time in kernels.
 */
export const SESSION_OPTIONS = {
  packed: { graphOptimizationLevel: "all", session: {} },
  mapped: { graphOptimizationLevel: "disabled", session: { disable_prepacking: "1" } },
} as const;
