export { type EvaluationSummary, monitoredValue, type StopReason, summaryOf, verdict } from "./early-stop.js";
export { observers, type StepMetrics, type TrainEvent, type TrainObserver, type TrainResult } from "./events.js";
export { openTrainable } from "./open-trainable.js";
export { adamw, adamwState, clipGradNorm } from "./optimizer.js";
export type { TrainOptions } from "./options.js";
export { plan } from "./plan.js";
export { train } from "./trainer.js";
