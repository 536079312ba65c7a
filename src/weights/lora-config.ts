/** PEFT's LoraConfig, which says what a file of factors leaves open: their alphas. */
import { InputError } from "../errors/index.js";
import { isRecord } from "../io/record.js";

/** A module's alpha, by its path inside the model and its rank; undefined where the config says none. */
export type AlphaOf = (module: string, rank: number) => number | undefined;

/**
 * From the config's JSON. `prefix` (such as `unet.`) is before each of its keys where the file of a pipeline holds the
 * configs of several models.
 */
export function alphasOfConfig(config: unknown, where: string, prefix = ""): AlphaOf {
  if (!isRecord(config)) throw new InputError("adapter-unsupported", `${where}: is not a mapping of settings.`);
  const setting = (name: string) => config[prefix + name] ?? undefined;
  if (setting("use_dora") === true)
    throw new InputError("adapter-unsupported", `${where}: use_dora is set; only plain LoRA is supported.`);
  const alpha = setting("lora_alpha");
  const number = (value: unknown, name: string): number => {
    if (typeof value === "number" && Number.isFinite(value)) return value;
    throw new InputError("adapter-unsupported", `${where}: ${name} is ${JSON.stringify(value)}, not a number.`);
  };
  const general = alpha === undefined ? undefined : number(alpha, `${prefix}lora_alpha`);
  const pattern = setting("alpha_pattern") ?? {};
  if (!isRecord(pattern))
    throw new InputError("adapter-unsupported", `${where}: ${prefix}alpha_pattern is not a mapping.`);
  const own = Object.entries(pattern).map(([key, value]) => ({
    fits: fitting(key, `${where}: ${prefix}alpha_pattern`),
    alpha: number(value, `${prefix}alpha_pattern: ${key}`),
  }));
  // Rank-stabilised LoRA divides by √rank instead (Kalajdzievski 2023).
  const stabilised = setting("use_rslora") === true;
  return (module, rank) => {
    const found = own.find(({ fits }) => fits(module))?.alpha ?? general;
    // As every file of factors holds it: float32.
    return found === undefined ? undefined : Math.fround(stabilised ? found * Math.sqrt(rank) : found);
  };
}

/** PEFT takes the keys for regular expressions at the end of a module's path. Here they are names, with `^` for a whole path. */
function fitting(key: string, where: string): (module: string) => boolean {
  const name = key.replace(/^\^/, "");
  if (!/^[\w.]+$/.test(name)) {
    throw new InputError(
      "adapter-unsupported",
      `${where}: ${JSON.stringify(key)} is a regular expression; only names are supported.`,
    );
  }
  if (key !== name) return (module) => module === name;
  return (module) => module === name || module.endsWith(`.${name}`);
}
