/** Reads PEFT's LoraConfig, which gives the alphas that a file of LoRA factors does not have. */
import { InputError, quote } from "../errors/index.js";
import { isRecord } from "../io/record.js";

/** The alpha of a module, by its path inside the model and its rank; undefined if the config does not set it. */
export type AlphaOf = (module: string, rank: number) => number | undefined;

/** The source of a LoraConfig, for error messages. */
export interface ConfigSource {
  readonly path: string;
  /** The part of the file that holds the config, such as a key of its header. */
  readonly part?: string;
}

/**
 * The alphas that a LoraConfig sets.
 *
 * @param prefix the prefix of each key (such as `unet.`) in the file of a pipeline, which has the configs of several
 *   models
 * @throws InputError `config-invalid`, or `adapter-unsupported` when the adapter is not plain LoRA
 */
export function alphasOfConfig(config: unknown, { path, part }: ConfigSource, prefix = ""): AlphaOf {
  const where = part === undefined ? path : `${path}: ${part}`;
  const expectRecord = (value: unknown, setting?: string): Record<string, unknown> => {
    if (isRecord(value)) return value;
    throw new InputError(
      "config-invalid",
      `${where}: ${setting === undefined ? "" : `${setting} `}is ${quote(value)}; expected a mapping.`,
      { path, setting, found: quote(value), expected: "a mapping" },
    );
  };
  const expectNumber = (value: unknown, setting: string): number => {
    if (typeof value === "number" && Number.isFinite(value)) return value;
    throw new InputError("config-invalid", `${where}: ${setting} is ${quote(value)}; expected a number.`, {
      path,
      setting,
      found: quote(value),
      expected: "a number",
    });
  };
  const settings = expectRecord(config);
  const settingOf = (name: string) => settings[prefix + name] ?? undefined;

  if (settingOf("use_dora") === true) {
    const setting = `${prefix}use_dora`;
    throw new InputError("adapter-unsupported", `${where}: ${setting} is set, but only plain LoRA is supported.`, {
      path,
      setting,
    });
  }
  const alpha = settingOf("lora_alpha");
  const general = alpha === undefined ? undefined : expectNumber(alpha, `${prefix}lora_alpha`);
  const pattern = expectRecord(settingOf("alpha_pattern") ?? {}, `${prefix}alpha_pattern`);
  const own = Object.entries(pattern).map(([key, value]) => {
    const matches = matcherOf(key);
    if (matches) return { matches, alpha: expectNumber(value, `${prefix}alpha_pattern.${key}`) };
    throw new InputError(
      "adapter-unsupported",
      `${where}: ${prefix}alpha_pattern: ${quote(key)} is a regular expression, but only names are supported.`,
      { path, setting: `${prefix}alpha_pattern`, found: key },
    );
  });
  // Rank-stabilized LoRA scales by alpha / √rank instead of alpha / rank (Kalajdzievski 2023).
  const stabilized = settingOf("use_rslora") === true;
  return (module, rank) => {
    const found = own.find(({ matches }) => matches(module))?.alpha ?? general;
    // Rounded to float32, the type that alphas have in a file of factors.
    return found === undefined ? undefined : Math.fround(stabilized ? found * Math.sqrt(rank) : found);
  };
}

/**
 * Whether a module's path matches a key of alpha_pattern. PEFT treats a key as a regular expression for the end of the
 * path. Here only names are supported, with `^` in front of a whole path; undefined for any other expression.
 */
function matcherOf(key: string): ((module: string) => boolean) | undefined {
  const name = key.replace(/^\^/, "");
  if (!/^[\w.]+$/.test(name)) return undefined;
  if (key !== name) return (module) => module === name;
  return (module) => module === name || module.endsWith(`.${name}`);
}
