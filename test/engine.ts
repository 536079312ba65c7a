import { CompiledEngine } from "../src/engine/engine.js";
import type { MemoryPlan } from "../src/engine/memory-plan.js";
import { Replica } from "../src/engine/replica.js";
import type { TrainingSetup } from "../src/engine/setup.js";
import { planWork } from "../src/engine/work.js";
import type { Runtime } from "../src/runtime/runtime.js";

/** A training setup; without monitors and in float32 unless it says otherwise. */
export type SetupParts = Omit<TrainingSetup, "monitors" | "precision"> & Partial<TrainingSetup>;

export const setupOf = (parts: SetupParts): TrainingSetup => ({ monitors: {}, precision: "float32", ...parts });

/** The engine of one replica, with its own memory plan but for `memory`. */
export async function compileEngine(
  runtime: Runtime,
  parts: SetupParts,
  memory: Partial<MemoryPlan> = {},
): Promise<{ engine: CompiledEngine; replica: Replica }> {
  const setup = setupOf(parts);
  const work = await planWork(setup, { threads: 1 });
  const engine = await CompiledEngine.compile(runtime, setup, work.graphs, { ...work.memory, ...memory });
  return { engine, replica: new Replica(engine, setup.reward.name) };
}
