/** Reads the config of a PEFT adapter: the alphas that its tensors do not have, and the settings that change its formula. */
import { InputError, quote } from "../errors/index.js";
import { isRecord } from "../io/record.js";

export interface AdapterConfig {
  /** The alpha of a module, by its path inside the model and its rank; undefined if the config does not set it. */
  alpha(module: string, rank: number): number | undefined;
  /** The rank of a module. Only the shape of LoKr's factors does not show it. */
  rank(module: string): number | undefined;
  /** DoRA: the tensors have magnitudes too. */
  readonly usesDora: boolean;
  /** The key of `use_dora`, for error messages. */
  readonly doraSetting: string;
}

/** The source of a config, for error messages. */
export interface ConfigSource {
  readonly path: string;
  /** The part of the file that holds the config, such as a key of its header. */
  readonly part?: string;
}

const TYPES = ["LORA", "LOHA", "LOKR"];

/** Initial factors that leave the base weights as they are. */
const PLAIN_INITIALIZATIONS = [true, false, "gaussian", "eva", "orthogonal"];

/** Settings that change what the factors mean. They are supported only at these values, or absent. */
const NEUTRAL: Readonly<Record<string, readonly unknown[]>> = {
  lora_bias: [false],
  use_qalora: [false],
  layer_replication: [],
  target_parameters: [],
  alora_invocation_tokens: [],
  use_bdlora: [],
};

/**
 * @param prefix the prefix of each key (such as `unet.`) in the file of a pipeline, which has the configs of several
 *   models
 * @throws InputError `config-invalid`, or `adapter-unsupported` when the adapter is of a kind that is not supported
 */
export function readAdapterConfig(config: unknown, { path, part }: ConfigSource, prefix = ""): AdapterConfig {
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
  const refuse = (name: string, why: string, expected: readonly unknown[] = []): never => {
    const [setting, found] = [prefix + name, quote(settingOf(name))];
    throw new InputError("adapter-unsupported", `${where}: ${setting} is ${found}. ${why}`, {
      path,
      setting,
      found,
      expected: expected.map((value) => quote(value)),
    });
  };

  const type = settingOf("peft_type") ?? "LORA";
  if (!TYPES.includes(type as string)) refuse("peft_type", `Supported are ${TYPES.join(", ")}.`, TYPES);
  const initial = settingOf("init_lora_weights") ?? true;
  if (type === "LORA" && !PLAIN_INITIALIZATIONS.includes(initial as string)) {
    refuse(
      "init_lora_weights",
      "PiSSA, OLoRA and the like also change the model's own weights, which the adapter's file does not contain, so its " +
        "factors alone give other images. Save it as plain LoRA: in PEFT, model.save_pretrained(folder, " +
        "path_initial_model_for_weight_conversion=<the adapter as it was before training>).",
      PLAIN_INITIALIZATIONS,
    );
  }
  for (const [name, neutral] of Object.entries(NEUTRAL)) {
    const value = settingOf(name);
    const isEmpty = value === undefined || (Array.isArray(value) && value.length === 0);
    if (!isEmpty && !neutral.includes(value)) refuse(name, "This variant of LoRA is not supported.", neutral);
  }

  const patternOf = (name: string, otherwise: string) => {
    const value = settingOf(otherwise);
    const general = value === undefined ? undefined : expectNumber(value, prefix + otherwise);
    const pattern = expectRecord(settingOf(name) ?? {}, prefix + name);
    const own = Object.entries(pattern).map(([key, value]) => {
      const matches = matcherOf(key);
      if (matches) return { matches, value: expectNumber(value, `${prefix}${name}.${key}`) };
      throw new InputError(
        "adapter-unsupported",
        `${where}: ${prefix}${name}: ${quote(key)} is a regular expression, but only names are supported.`,
        { path, setting: prefix + name, found: key },
      );
    });
    return (module: string) => own.find(({ matches }) => matches(module))?.value ?? general;
  };
  const alphaOf = patternOf("alpha_pattern", type === "LORA" ? "lora_alpha" : "alpha");
  // The factors of LoRA and LoHa show their rank, whatever the config says.
  const rankOf = type === "LOKR" ? patternOf("rank_pattern", "r") : () => undefined;
  // Rank-stabilized LoRA scales by alpha / √rank instead of alpha / rank (Kalajdzievski 2023).
  const stabilized = settingOf("use_rslora") === true;
  return {
    alpha(module, rank) {
      const found = alphaOf(module);
      // Rounded to float32, the type that alphas have in a file of factors.
      return found === undefined ? undefined : Math.fround(stabilized ? found * Math.sqrt(rank) : found);
    },
    rank: rankOf,
    usesDora: settingOf("use_dora") === true,
    doraSetting: `${prefix}use_dora`,
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
