export { type EvaluationSummary, monitoredValue, type StopReason, summaryOf, verdict } from "./early-stop.js";
export { observers, type StepMetrics, type TrainEvent, type TrainObserver, type TrainResult } from "./events.js";
export { type PartsInCode, withLossInCode, withPartsInCode } from "./in-code.js";
export { openTrainable } from "./open-trainable.js";
export { adamw, adamwState, clipGradNorm } from "./optimizer.js";
export type { TrainOptions } from "./options.js";
export { type PlanOptions, plan } from "./plan.js";
export { train } from "./trainer.js";
