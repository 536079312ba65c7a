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
 * The output that the reward is computed from: the one that the settings name, the only one, or one with a usual name. If
 * nothing selects one, `orFirst` takes the first output instead of an error.
 */
export function selectOutput(
  { outputs }: OnnxFile,
  { file, output, class: chosen, similarity }: OnnxSettings,
  { orFirst }: { readonly orFirst: boolean },
): string {
  const facts = { path: file, setting: "reward.output", outputs };
  if (output !== null) {
    if (outputs.includes(output)) return output;
    const suggestion = nearest(output, outputs);
    throw new InputError(
      "reward-invalid",
      `${file}: the model has no output ${JSON.stringify(output)} (reward.output).${suggestion ? ` Did you mean ${suggestion}?` : ""} Its outputs are ${list(outputs)}.`,
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

/** The index of the class in the settings; null if they select none. A label is looked up in `labels` or config.json. */
export async function selectClass(
  { file, class: chosen, labels }: OnnxSettings,
  modelPath: string,
  find: OnnxContext["find"],
): Promise<number | null> {
  if (typeof chosen !== "string") return chosen;
  const facts = { path: file, setting: "reward.class", found: chosen };
  const path = labels === null ? join(dirname(modelPath), "config.json") : await find(labels);
  if (labels === null && !(await exists(path))) {
    throw new InputError(
      "reward-invalid",
      `${file}: the class ${JSON.stringify(chosen)} is a label, but there is no config.json with labels beside the model. Set reward.class to an index, or reward.labels to a file of labels.`,
      facts,
    );
  }
  const entries = await readLabels(path);
  const same = (a: string) => a.trim().toLowerCase() === chosen.trim().toLowerCase();
  const [id] = entries.find(([, label]) => same(label)) ?? [];
  if (id !== undefined && /^\d{1,7}$/.test(id)) return Number(id);
  const suggestion = nearest(
    chosen,
    entries.map(([, label]) => label),
  );
  throw new InputError(
    "reward-invalid",
    `${file}: ${path} has no label ${JSON.stringify(chosen)} (reward.class).${suggestion ? ` Did you mean ${JSON.stringify(suggestion)}?` : ""}`,
    { ...facts, labels: path, suggestion },
  );
}

const idToLabel = z.looseObject({ id2label: z.record(z.string(), z.string()) });

/** Indices and labels of id2label in a JSON file, or of the lines of a text file. */
async function readLabels(path: string): Promise<(readonly [id: string, label: string])[]> {
  const content = await readText(path, 2 ** 24);
  if (path.endsWith(".json")) return Object.entries(parseConfig(idToLabel, parseJson(content, path), path).id2label);
  return content.split(/\r?\n/).map((line, i) => [String(i), line.trim()] as const);
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
