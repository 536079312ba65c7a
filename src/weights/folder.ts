import { readdir, realpath, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { z } from "zod";
import { type ErrorCode, InputError, nearest, quote } from "../errors/index.js";
import { asInputError, exists } from "../io/files.js";
import { readJson } from "../io/json.js";
import type { WeightSource } from "./source.js";
import { openShards, openWeightFile } from "./weight-file.js";

/** A text-to-image model: a set of components, each with a configuration and most with weights. */
export interface Model {
  /** A folder has a folder for each component. A file (`ldm/single-file.ts`) has the weights of all components. */
  readonly kind: "folder" | "file";
  /** Absolute path with links resolved. */
  readonly path: string;
  /** The class of the pipeline, such as `StableDiffusionPipeline`. */
  readonly pipeline: string;
  readonly components: ReadonlyMap<string, Component>;
  /** The other entries of model_index.json, such as `force_zeros_for_empty_prompt`. */
  readonly options: Readonly<Record<string, unknown>>;
}

export interface Component {
  /** The component's folder. For a component of a single file, except a tokenizer, only a name for messages. */
  readonly path: string;
  /** The class of the component, such as `UNet2DConditionModel`. */
  readonly className: string;
  /** The parsed configuration, not checked against a schema. `file` defaults to config.json. */
  config(file?: string): Promise<unknown>;
  weights(): Promise<WeightSource>;
}

const LAYOUT =
  "A model folder in the diffusers layout holds model_index.json and a folder for each component: " +
  "unet/, vae/, text_encoder/, tokenizer/, scheduler/.";

const INDEX = "model_index.json";
const modelIndex = z.looseObject({ _class_name: z.string() });
const componentEntry = z.tuple([z.string().nullable(), z.string().nullable()]);

/** The name of a component is also that of its folder, so a hostile index must not lead out of the model folder. */
const COMPONENT_NAME = /^[A-Za-z0-9][A-Za-z0-9_-]*$/;

/**
 * Opens a model in the diffusers layout: `model_index.json` names the components and their classes, and each component
 * has a folder with its configuration and weights.
 *
 * @throws InputError when the folder or its index is missing, or the index is malformed
 */
export async function openModelFolder(path: string): Promise<Model> {
  const realPath = await requireFolder(path, { name: `model folder ${path}`, remedy: LAYOUT });
  if (!(await exists(join(realPath, INDEX)))) {
    throw new InputError("model-incomplete", `model folder ${path}: has no ${INDEX}. ${LAYOUT}`, {
      path,
      missing: INDEX,
    });
  }
  const indexPath = join(path, INDEX);
  const index = await readJson(join(realPath, INDEX), modelIndex);
  const components = new Map<string, Component>();
  const options: Record<string, unknown> = {};
  for (const [name, entry] of Object.entries(index)) {
    // Names that start with an underscore describe the index itself.
    if (name.startsWith("_")) continue;
    if (!Array.isArray(entry)) {
      options[name] = entry;
      continue;
    }
    if (!COMPONENT_NAME.test(name)) {
      throw new InputError(
        "path-unsafe",
        `${indexPath}: ${quote(name)} cannot be the name of a component's folder. ` +
          "Download the model again from a source you trust.",
        { path: indexPath, component: name },
      );
    }
    const checked = componentEntry.safeParse(entry);
    if (!checked.success) {
      throw new InputError(
        "config-invalid",
        `${indexPath}: ${name}: expected [library, class], found ${quote(entry)}.`,
        { path: indexPath, component: name, expected: "[library, class]", found: quote(entry) },
      );
    }
    const className = checked.data[1];
    // [null, null] is an optional component that the model does not have, such as the safety checker.
    if (className !== null) components.set(name, folderComponent(join(realPath, name), className));
  }
  return { kind: "folder", path: realPath, pipeline: index._class_name, components, options };
}

function folderComponent(path: string, className: string): Component {
  return {
    path,
    className,
    config: (file) => readConfig(path, z.unknown(), file),
    weights: () => openWeights(path),
  };
}

/**
 * The component called `name`.
 *
 * @param supported the classes that the caller can build
 * @throws InputError when the component is missing or of another class
 */
export async function requireComponent(model: Model, name: string, supported: readonly string[]): Promise<Component> {
  const indexPath = model.kind === "folder" ? join(model.path, INDEX) : model.path;
  const component = model.components.get(name);
  if (!component) {
    const found = [...model.components.keys()];
    const suggestion = nearest(name, found);
    throw new InputError(
      "model-incomplete",
      `${indexPath}: has no ${name}; its components are ${found.join(", ") || "none"}. ` +
        `${suggestion === undefined ? "" : `Did you mean ${suggestion}? `}${LAYOUT}`,
      { path: indexPath, component: name, found, suggestion },
    );
  }
  if (!supported.includes(component.className)) {
    throw new InputError(
      "model-unsupported",
      `${indexPath}: ${name} is of class ${component.className}; supported here: ${supported.join(", ")}.`,
      { path: indexPath, component: name, found: component.className, expected: supported },
    );
  }
  if (model.kind === "folder") {
    await requireFolder(component.path, {
      code: "model-incomplete",
      name: `model folder ${model.path}: component ${name}`,
      remedy: LAYOUT,
    });
  }
  return component;
}

/**
 * The names that diffusers and transformers give to weight files and indexes, in order of preference: full precision
 * before fp16, safetensors before pickles, one file before shards.
 */
const WEIGHTS = ["", "fp16"].flatMap((variant) =>
  ["safetensors", "bin"].flatMap((ending) =>
    ["diffusion_pytorch_model", ending === "bin" ? "pytorch_model" : "model"].flatMap((stem) => {
      const dotted = variant && `.${variant}`;
      const file = `${stem}${dotted}.${ending}`;
      // The position of the variant in the name of an index depends on the version of the library.
      return [...new Set([file, `${file}.index.json`, `${stem}.${ending}.index${dotted}.json`])];
    }),
  ),
);

function preferredWeights(present: ReadonlySet<string>): string | undefined {
  return WEIGHTS.find((candidate) => present.has(candidate));
}

/** The files of a component that `openWeights` would read; undefined if it has no weights or lacks some shards. */
export function weightsAmong(names: readonly string[]): string[] | undefined {
  const name = preferredWeights(new Set(names));
  if (name === undefined) return undefined;
  if (!name.endsWith(".json")) return [name];
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

/**
 * Opens the weights in a component's folder, from one file or from shards.
 *
 * @throws InputError `model-not-found` without the folder, `model-incomplete` without weights in it, or the error of a
 *   damaged file
 */
export async function openWeights(componentPath: string): Promise<WeightSource> {
  await requireFolder(componentPath, {
    name: `weights folder ${componentPath}`,
    remedy: "Put the weights into this folder, or correct the path.",
  });
  const present = new Set(await readdir(componentPath));
  const name = preferredWeights(present);
  if (name !== undefined) {
    const path = join(componentPath, name);
    return name.endsWith(".json") ? openShards(path) : openWeightFile(path);
  }
  const expected = WEIGHTS.filter((candidate) => !candidate.endsWith(".json"));
  const found = [...present].sort().slice(0, 10);
  throw new InputError(
    "model-incomplete",
    `${componentPath}: has no weights; expected one of ${expected.join(", ")}. Found: ${found.join(", ") || "nothing"}.`,
    { path: componentPath, missing: "weights", expected, found },
  );
}

/**
 * Reads the configuration in a component's folder and checks it against `schema`.
 *
 * @throws InputError when the folder or the file is missing, or its content does not match the schema
 */
export async function readConfig<S extends z.ZodType>(
  componentPath: string,
  schema: S,
  file = "config.json",
): Promise<z.output<S>> {
  await requireFolder(componentPath, {
    name: `folder ${componentPath}`,
    remedy: `Put ${file} into this folder, or correct the path.`,
  });
  const path = join(componentPath, file);
  if (!(await exists(path))) {
    throw new InputError(
      "model-incomplete",
      `${componentPath}: has no ${file}, which a ${basename(componentPath)} folder needs.`,
      { path: componentPath, missing: file },
    );
  }
  return readJson(path, schema);
}

interface FolderErrors {
  /** The code of the error; default `model-not-found`. */
  readonly code?: ErrorCode;
  /** The name of the folder in messages. */
  readonly name: string;
  readonly remedy: string;
}

/** The absolute path of a folder, with links resolved. */
async function requireFolder(path: string, { code = "model-not-found", name, remedy }: FolderErrors): Promise<string> {
  try {
    const real = await realpath(path);
    if ((await stat(real)).isDirectory()) return real;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") {
      throw new InputError(code, `${name}: not found. ${remedy}`, { path, found: "nothing", expected: "folder" });
    }
    throw asInputError(error, path, "read");
  }
  throw new InputError(code, `${name}: is a file, not a folder. ${remedy}`, {
    path,
    found: "file",
    expected: "folder",
  });
}
