export {
  adapterPath,
  dropOldCheckpoints,
  finalSteps,
  isRun,
  savedSteps,
  writeCheckpoint,
} from "./checkpoints.js";
export { configText, leaves } from "./config.js";
export { bestStep, readHistory } from "./history.js";
export { findImages, type ImageFile } from "./image-files.js";
export { cardFiles, checkpointFolder, runFiles, samplesFolder, stepFolder, stepsIn } from "./layout.js";
export { appendMetrics, readMetrics, truncateMetrics } from "./metrics.js";
export { makeRunFolder, requireEmpty, requireWritable } from "./output-folder.js";
export { evenly, type RunRecord, readRun, type ShownEvaluation } from "./run-record.js";
export {
  type EvaluationRecord,
  imageFileName,
  readEvaluation,
  readEvaluations,
  readSamples,
  type SampleEntry,
  writeEvaluation,
  writeImages,
  writeSamples,
} from "./samples.js";
export {
  type AdapterChoice,
  adapterChoice,
  openAdapter,
  openAllTuned,
  openTuned,
  recipeOfAdapter,
  recipeOfAdapters,
  type Tuned,
  type TunedOptions,
} from "./tuned.js";
