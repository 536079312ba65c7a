/** What the settings of an ONNX reward select: an output, a class by its label, or an embedding to compare with. */
import { dirname, join } from "node:path";
import { z } from "zod";
import { InputError, nearest } from "../../errors/index.js";
import { readImage } from "../../images/read.js";
import { imageTensor } from "../../images/rgb.js";
import { parseConfig } from "../../io/config-schema.js";
import { exists, readText } from "../../io/files.js";
import { parseJson, readJson } from "../../io/json.js";
import type { OnnxFile } from "../../onnx/import/file.js";
import type { HostTensor } from "../../tensor/host.js";
import { sizeOf } from "../../tensor/shape.js";
import { openSafetensors } from "../../weights/safetensors.js";
import { readTensor } from "../../weights/source.js";
import { list } from "./onnx-inputs.js";
import type { OnnxContext, OnnxSettings } from "./onnx-settings.js";

/** The usual names of outputs in exports of transformers. */
const LOGITS = ["logits"];
const EMBEDDINGS = ["image_embeds", "pooler_output"];

/**
 * The tensor that the reward is computed from: the one that the settings name, the only output, or one with a usual name. If
 * nothing selects one, `orFirst` takes the first output instead of an error.
 */
export function selectOutput(
  { outputs, computed }: OnnxFile,
  { file, output, class: chosen, similarity }: OnnxSettings,
  { orFirst }: { readonly orFirst: boolean },
): string {
  const facts = { path: file, setting: "reward.output", outputs };
  if (output !== null) {
    if (outputs.includes(output) || computed.includes(output)) return output;
    const suggestion = nearest(output, outputs) ?? nearest(output, computed);
    throw new InputError(
      "reward-invalid",
      `${file}: the model has no output or other tensor ${JSON.stringify(output)} (reward.output).${suggestion ? ` Did you mean ${suggestion}?` : ""} Its outputs are ${list(outputs)}.`,
      { ...facts, found: output, suggestion },
    );
  }
  if (outputs.length === 1) return outputs[0] as string;
  const usual = chosen !== null ? LOGITS : similarity ? EMBEDDINGS : [];
  const found = usual.find((name) => outputs.includes(name));
  if (found) return found;
  if (orFirst && outputs[0] !== undefined) return outputs[0];
  throw new InputError(
    "reward-invalid",
    `${file}: the model has several outputs. Name one with reward.output: ${list(outputs)}.`,
    facts,
  );
}

/** The class that the settings select, and how many there are. */
export interface ChosenClass {
  /** null if the settings select none. */
  readonly index: number | null;
  /** Number of labels of the model; undefined if they are not known. */
  readonly count: number | undefined;
}

/** The class in the settings. A label is looked up in `labels`, in config.json or in the metadata of the file. */
export async function selectClass(
  { file, class: chosen, labels }: OnnxSettings,
  modelPath: string,
  find: OnnxContext["find"],
  metadata: OnnxFile["metadata"],
): Promise<ChosenClass> {
  if (chosen === null) return { index: null, count: undefined };
  const beside = join(dirname(modelPath), "config.json");
  const path = labels === null ? beside : await find(labels);
  const named = labels === null ? namesIn(metadata) : undefined;
  const isThere = labels !== null || (await exists(path));
  // A config.json of something else has no labels, which matters only if one is asked for.
  const entries =
    named ?? (isThere ? await readLabels(path, typeof chosen === "string" || labels !== null) : undefined);
  const count = entries?.length;
  if (typeof chosen !== "string") return { index: chosen, count };
  const facts = { path: file, setting: "reward.class", found: chosen };
  if (!entries) {
    throw new InputError(
      "reward-invalid",
      `${file}: the class ${JSON.stringify(chosen)} is a label, but there is no config.json with labels beside the model. Set reward.class to an index, or reward.labels to a file of labels.`,
      facts,
    );
  }
  const same = (a: string) => a.trim().toLowerCase() === chosen.trim().toLowerCase();
  const [id] = entries.find(([, label]) => same(label)) ?? [];
  if (id !== undefined && /^\d{1,7}$/.test(id)) return { index: Number(id), count };
  const suggestion = nearest(
    chosen,
    entries.map(([, label]) => label),
  );
  const source = named ? file : path;
  throw new InputError(
    "reward-invalid",
    `${file}: ${named ? "its metadata" : path} has no label ${JSON.stringify(chosen)} (reward.class).${suggestion ? ` Did you mean ${JSON.stringify(suggestion)}?` : ""}`,
    { ...facts, labels: source, suggestion },
  );
}

type Label = readonly [id: string, label: string];

/** The labels in the metadata of Ultralytics: a Python dictionary such as {0: 'person', 1: "driver's hat"}. */
function namesIn(metadata: OnnxFile["metadata"]): Label[] | undefined {
  const names = metadata.get("names")?.slice(0, 1_000_000);
  if (!names || !/^\s*\{/.test(names)) return undefined;
  const entry = /(\d{1,7})\s*:\s*(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")/g;
  const found = [...names.matchAll(entry)].map(([, id = "", single, double]): Label => {
    return [id, (single ?? double ?? "").replace(/\\(.)/g, "$1")];
  });
  return found.length > 0 ? found : undefined;
}

function jsonOr(text: string, otherwise: unknown): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return otherwise;
  }
}

const idToLabel = z.looseObject({ id2label: z.record(z.string(), z.string()) });

/** Indices and labels of id2label in a JSON file, or of the lines of a text file; undefined if none are required and none found. */
async function readLabels(path: string, isRequired: boolean): Promise<Label[] | undefined> {
  const content = await readText(path, 2 ** 24);
  if (!path.endsWith(".json")) return content.split(/\r?\n/).map((line, i) => [String(i), line.trim()] as const);
  if (!isRequired && !idToLabel.safeParse(jsonOr(content, {})).success) return undefined;
  const json = parseJson(content, path);
  return Object.entries(parseConfig(idToLabel, json, path).id2label);
}

/** What the output is compared with: an image [1, 3, h, w] that goes through the model too, or an embedding [1, d]. */
export interface Reference {
  readonly kind: "image" | "embedding";
  readonly tensor: HostTensor;
}

export async function openReference(
  { similarity }: Pick<OnnxSettings, "similarity">,
  find: OnnxContext["find"],
): Promise<Reference | undefined> {
  if (similarity === null) return undefined;
  if ("picture" in similarity) {
    return { kind: "image", tensor: imageTensor(await readImage(await find(similarity.picture))) };
  }
  const path = await find(similarity.embedding);
  if (path.endsWith(".json")) {
    const values = await readJson(path, z.array(z.number()).min(1).max(1_000_000), 2 ** 25);
    const tensor = { dtype: "float32", shape: [1, values.length], data: Float32Array.from(values) } as const;
    return { kind: "embedding", tensor };
  }
  const source = await openSafetensors(path);
  const names = [...source.names()];
  const stored = names[0] === undefined ? undefined : source.get(names[0]);
  if (!stored || names.length > 1) {
    throw new InputError(
      "reward-invalid",
      `${path}: the file has ${names.length} tensors, but must have one: the embedding.`,
      { path, found: names.length, expected: 1, setting: "reward.similarity.embedding" },
    );
  }
  const tensor = await readTensor(stored);
  return { kind: "embedding", tensor: { ...tensor, shape: [1, sizeOf(tensor.shape)] } };
}
