export { accumulationSteps, evaluationBatchSize, runtimeOptions, stepsPerEpoch, threadsOf } from "./batch.js";
export { type LoadOptions, loadSettings, settingsFrom } from "./load.js";
export { type Override, parseSet } from "./overrides.js";
export { ANIMALS, evaluationPrompts, HELD_OUT_ANIMALS, inTemplate, resolvePrompts } from "./prompts.js";
export { withNewNames } from "./renamed.js";
export {
  type BatchSettings,
  type DeviceSettings,
  type EarlyStopSettings,
  type LoadingSettings,
  type LossSettings,
  MOST_RANK,
  type ModelSettings,
  resolvedLoss,
  type SamplingSettings,
  type Settings,
  type SettingsInput,
  type SettingsPart,
  settingsSchema,
} from "./settings.js";
export { type SettingsOf, type TrackerName, trackerNames } from "./trackers.js";
