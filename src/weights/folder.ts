import { readdir, realpath, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { z } from "zod";
import { InputError, nearest } from "../errors/index.js";
import { asInputError, exists } from "../io/files.js";
import { readJson } from "../io/json.js";
import type { WeightSource } from "./source.js";
import { openShards, openWeightFile } from "./weight-file.js";

/** A text-to-image model as a set of parts, each with a configuration and most with weights. */
export interface Model {
  /** A folder has a folder for each part; a file (`ldm/single-file.ts`) holds the weights of them all. */
  readonly kind: "folder" | "file";
  /** Absolute, links resolved. */
  readonly path: string;
  /** Such as StableDiffusionPipeline. */
  readonly pipeline: string;
  readonly components: ReadonlyMap<string, Component>;
  /** Other entries of the index, such as `force_zeros_for_empty_prompt`. */
  readonly options: Readonly<Record<string, unknown>>;
}

export interface Component {
  /** A folder's part lies here. Of a file's part, what messages call it; its tokenizer is a folder all the same. */
  readonly path: string;
  /** Such as UNet2DConditionModel. */
  readonly className: string;
  /** Its configuration, parsed and not checked yet. */
  config(file?: string): Promise<unknown>;
  weights(): Promise<WeightSource>;
}

const LAYOUT =
  "A model folder in the diffusers layout holds model_index.json and a folder for each part: " +
  "unet/, vae/, text_encoder/, tokenizer/, scheduler/.";

const INDEX = "model_index.json";
const modelIndex = z.looseObject({ _class_name: z.string() });
const componentEntry = z.tuple([z.string().nullable(), z.string().nullable()]);

/** Component names become folder names, so a hostile index must not lead out of the model folder. */
const COMPONENT_NAME = /^[A-Za-z0-9][A-Za-z0-9_-]*$/;

/**
 * A model in the diffusers layout: `model_index.json` names the parts and their classes, and each part has a folder of
 * its own with its configuration and weights.
 */
export async function openModelFolder(path: string): Promise<Model> {
  const real = await requireFolder(path, `model folder ${path}`, LAYOUT);
  if (!(await exists(join(real, INDEX)))) {
    throw new InputError("file-malformed", `model folder ${path}: has no ${INDEX}. ${LAYOUT}`);
  }
  const indexPath = join(path, INDEX);
  const index = await readJson(join(real, INDEX), modelIndex);
  const components = new Map<string, Component>();
  const options: Record<string, unknown> = {};
  for (const [name, entry] of Object.entries(index)) {
    // Names with an underscore describe the file.
    if (name.startsWith("_")) continue;
    if (!Array.isArray(entry)) {
      options[name] = entry;
      continue;
    }
    if (!COMPONENT_NAME.test(name)) {
      throw new InputError(
        "file-malformed",
        `${indexPath}: ${JSON.stringify(name)} cannot be the name of a component's folder.`,
      );
    }
    const checked = componentEntry.safeParse(entry);
    if (!checked.success) {
      throw new InputError(
        "file-malformed",
        `${indexPath}: ${name}: expected [library, class], found ${JSON.stringify(entry)}.`,
      );
    }
    const className = checked.data[1];
    // [null, null] is a part that this pipeline could have and does not, such as the safety checker.
    if (className !== null) components.set(name, folderComponent(join(real, name), className));
  }
  return { kind: "folder", path: real, pipeline: index._class_name, components, options };
}

function folderComponent(path: string, className: string): Component {
  return {
    path,
    className,
    config: (file) => readConfig(path, z.unknown(), file),
    weights: () => openWeights(path),
  };
}

/** The part called `name`, which must be of one of the classes that the caller can build. */
export async function requireComponent(model: Model, name: string, supported: readonly string[]): Promise<Component> {
  const indexPath = model.kind === "folder" ? join(model.path, INDEX) : model.path;
  const component = model.components.get(name);
  if (!component) {
    const names = [...model.components.keys()];
    const similar = nearest(name, names);
    throw new InputError(
      "file-malformed",
      `${indexPath}: names no ${name}; it has ${names.join(", ") || "no parts at all"}.${similar ? ` Is it ${similar}?` : ""} ${LAYOUT}`,
    );
  }
  if (!supported.includes(component.className)) {
    throw new InputError(
      "file-malformed",
      `${indexPath}: ${name} is of class ${component.className}; supported here: ${supported.join(", ")}.`,
    );
  }
  if (model.kind === "folder") {
    await requireFolder(component.path, `model folder ${model.path}: part ${name}`, LAYOUT);
  }
  return component;
}

/**
 * What diffusers and transformers call a part's weights, in the order in which they are preferred: full precision to half,
 * safetensors to pickles, one file to several.
 */
const WEIGHTS = ["", "fp16"].flatMap((variant) =>
  ["safetensors", "bin"].flatMap((ending) =>
    ["diffusion_pytorch_model", ending === "bin" ? "pytorch_model" : "model"].flatMap((stem) => {
      const dotted = variant && `.${variant}`;
      const file = `${stem}${dotted}.${ending}`;
      // The variant of an index stands at one of two places, by the library's version.
      return [...new Set([file, `${file}.index.json`, `${stem}.${ending}.index${dotted}.json`])];
    }),
  ),
);

function preferred(present: ReadonlySet<string>): string | undefined {
  return WEIGHTS.find((candidate) => present.has(candidate));
}

/** Of a part's files those that `openWeights` would read; undefined where a part has none, or not all of them. */
export function weightsAmong(names: readonly string[]): string[] | undefined {
  const name = preferred(new Set(names));
  if (name === undefined || !name.endsWith(".json")) return name === undefined ? undefined : [name];
  // model.safetensors.index.json lists model-00001-of-00002.safetensors and so on.
  const [stem, variant] = [name.slice(0, name.indexOf(".")), name.includes(".fp16.") ? ".fp16" : ""];
  const ending = name.includes(".safetensors.") ? "safetensors" : "bin";
  const shards = names.filter((other) => {
    const match = /^(.*)-\d{5}-of-\d{5}(.*)\.(safetensors|bin)$/.exec(other);
    return (
      match !== null &&
      match[3] === ending &&
      (match[1] === `${stem}${variant}` || (match[1] === stem && match[2] === variant))
    );
  });
  const count = Number(shards[0]?.match(/-of-(\d{5})/)?.[1] ?? 0);
  return count > 0 && shards.length === count ? [name, ...shards] : undefined;
}

/** The weights beside a `config.json`, in one file or several. */
export async function openWeights(componentPath: string): Promise<WeightSource> {
  await requireFolder(componentPath, `weights folder ${componentPath}`, "Its weights belong there.");
  const present = new Set(await readdir(componentPath));
  const name = preferred(present);
  if (name)
    return name.endsWith(".json") ? openShards(join(componentPath, name)) : openWeightFile(join(componentPath, name));
  const usual = WEIGHTS.filter((candidate) => !candidate.endsWith(".json")).join(", ");
  throw new InputError(
    "file-malformed",
    `${componentPath}: has no weights; expected one of ${usual}. Found: ${[...present].sort().slice(0, 10).join(", ") || "nothing"}.`,
  );
}

/** A part's configuration, checked against the schema of what is to be built. */
export async function readConfig<S extends z.ZodType>(
  componentPath: string,
  schema: S,
  file = "config.json",
): Promise<z.output<S>> {
  await requireFolder(componentPath, `folder ${componentPath}`, `Its ${file} belongs there.`);
  const path = join(componentPath, file);
  if (!(await exists(path))) {
    throw new InputError(
      "file-malformed",
      `${componentPath}: has no ${file}; a ${basename(componentPath)} folder needs one.`,
    );
  }
  return readJson(path, schema);
}

async function requireFolder(path: string, what: string, remedy: string): Promise<string> {
  try {
    const real = await realpath(path);
    if ((await stat(real)).isDirectory()) return real;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT")
      throw new InputError("file-malformed", `${what}: not found. ${remedy}`);
    throw asInputError(error, path, "read");
  }
  throw new InputError("file-malformed", `${what}: is a file, not a folder. ${remedy}`);
}
