export { calibrate } from "./calibrate.js";
export { CompiledEngine } from "./engine.js";
export { requireFiniteParameters } from "./finite.js";
export { flops } from "./flops.js";
export { addCosts, type Cost, type GradientResult, NO_COST } from "./gradient.js";
export { initialLossScale, type LossScale, MAX_SCALE, MIN_SCALE, recordOverflow, recordUpdate } from "./loss-scale.js";
export type { MemoryPlan } from "./memory-plan.js";
export { countPlan, type Plan, type PlanEstimate, type PlanOption } from "./plan.js";
export { checksum, Ranks } from "./ranks.js";
export { Replica } from "./replica.js";
export {
  type CompiledReplica,
  compileReplicas,
  type Machine,
  Replicas,
  resolvePrecision,
  startRuntimes,
} from "./replicas.js";
export { drawSamples, STREAMS } from "./samples.js";
export type { TrainingSetup } from "./setup.js";
export { type StepResult, trainingStep } from "./step.js";
export { planWork, preferredReplicas, type Work, WorkPlanner } from "./work.js";
export type { Workers } from "./workers.js";
