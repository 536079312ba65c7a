import type { SettingsPart } from "../config/index.js";
import { adapterPath } from "./record/index.js";

/** Replaces a run folder in `lora.start` by its best checkpoint, because another checkpoint may be the best one later. */
export async function withStart<S extends SettingsPart<"lora">>(settings: S): Promise<S> {
  const { lora } = settings;
  return lora.start === null ? settings : { ...settings, lora: { ...lora, start: await adapterPath(lora.start) } };
}
