/** Says what a folder is, from the names in it and its configurations. */
import { basename, dirname, join } from "node:path";
import { z } from "zod";
import { InputError } from "../../errors/index.js";
import { exists } from "../../io/files.js";
import { readJson } from "../../io/json.js";
import { adapterFile } from "../adapter-file.js";
import type { Look, LookKind } from "./kinds.js";
import { inputChannels, NOT_TEXT_TO_IMAGE } from "./tensors.js";

const json = z.looseObject({});

/** The classes of a pipeline's denoiser and text encoder that are supported. */
const UNET = "UNet2DConditionModel";
const PARTS = ["unet", "vae", "text_encoder", "tokenizer", "scheduler"];
const SUPPORTED = "The supported models are Stable Diffusion 1.x, 2.x and XL.";

/** @param look looks at a file in the folder */
export async function lookAtFolder(
  path: string,
  names: readonly string[],
  look: (path: string) => Promise<Look>,
): Promise<Look> {
  const is = (kind: LookKind, what: string, advice: string, rest: Partial<Look> = {}): Look => ({
    path,
    kind,
    what,
    details: {},
    advice,
    supported: false,
    ...rest,
  });
  const has = (...wanted: string[]) => wanted.every((name) => names.includes(name));
  if (has("config.yaml", "checkpoints") || has("config.yaml", "metrics.jsonl")) {
    return is("run", "the folder of a run", "Give it as an adapter, or continue it.", {
      supported: true,
      command: ["generate", "--adapter", path, "--prompt", "a cat"],
    });
  }
  if (has("model_index.json")) return lookAtPipeline(path);
  if (
    has("training_state.safetensors") ||
    (has("unet") && !has("vae") && (await exists(join(path, "unet/config.json"))))
  ) {
    return is("checkpoint", "a checkpoint of a run", "Give it as an adapter.", {
      supported: true,
      command: ["generate", "--adapter", path, "--prompt", "a cat"],
    });
  }
  if (has("config.json")) return lookAtComponent(path);
  if (has("vocab.json", "merges.txt") || has("tokenizer.json")) {
    return is("tokenizer", "the folder of a tokenizer", "Give it as loading.tokenizer of a model in one file.");
  }
  const file = await adapterFile(path).catch((error: unknown) => {
    if (!(error instanceof InputError)) throw error;
    return undefined;
  });
  if (file !== undefined) {
    const found = await look(file);
    const command = found.command?.map((part) => (part === file ? path : part));
    return { ...found, path, ...(command && { command }) };
  }
  const weights = names.filter((name) => /\.(safetensors|ckpt|pt|pth|bin|gguf|onnx)$/.test(name));
  return is(
    "folder",
    weights.length === 0 ? "a folder without a model" : `a folder with ${weights.length} files of weights`,
    weights.length === 0
      ? "Give the folder of a model, an adapter or a run."
      : `Give one of them, such as ${join(path, weights[0] as string)}.`,
    { details: { files: names.slice(0, 10) } },
  );
}

async function lookAtPipeline(path: string): Promise<Look> {
  const index = await readJson(join(path, "model_index.json"), json);
  const className = String(index._class_name ?? "an unnamed class");
  const classOf = (name: string) => (Array.isArray(index[name]) ? String(index[name][1]) : undefined);
  const unet = classOf("unet");
  const details = {
    class: className,
    ...(unet !== undefined && { unet }),
    ...(classOf("transformer") && { transformer: classOf("transformer") as string }),
    ...(classOf("scheduler") && { scheduler: classOf("scheduler") as string }),
  };
  const refused = (what: string, advice: string): Look => ({
    path,
    kind: "pipeline",
    what,
    details,
    advice,
    supported: false,
  });
  const isStable = /^StableDiffusion(?!3)/.test(className) && classOf("transformer") === undefined;
  if (unet === undefined ? !isStable : unet !== UNET) {
    return refused(`a ${className}`, `${className} is not supported. ${SUPPORTED}`);
  }
  const config = await readJson(join(path, "unet/config.json"), json).catch((error: unknown) => {
    if (!(error instanceof InputError)) throw error;
    return {} as Record<string, unknown>;
  });
  const use = inputChannels(Number(config.in_channels ?? 4), Number(config.out_channels ?? 4));
  if (use !== undefined) return refused(`${use}, of class ${className}`, NOT_TEXT_TO_IMAGE);
  const missing = PARTS.filter((name) => classOf(name) === undefined || classOf(name) === "null");
  if (missing.length > 0) {
    const what = `a model in the layout of diffusers (${className}) that lacks its ${missing.join(", ")}`;
    return { path, kind: "pipeline", what, details: { ...details, missing }, advice: SUPPORTED, supported: false };
  }
  return {
    path,
    kind: "pipeline",
    what: `a model in the layout of diffusers (${className})`,
    details,
    advice: "Give it as the model.",
    command: ["generate", "--model", path, "--prompt", "a cat"],
    supported: true,
  };
}

async function lookAtComponent(path: string): Promise<Look> {
  const config = await readJson(join(path, "config.json"), json).catch((error: unknown) => {
    if (!(error instanceof InputError)) throw error;
    return {} as Record<string, unknown>;
  });
  const above = dirname(path);
  if (typeof config._class_name === "string") {
    const inPipeline = await exists(join(above, "model_index.json"));
    return {
      path,
      kind: "component",
      what: `a part of a model (${config._class_name})`,
      details: { class: config._class_name },
      advice: inPipeline
        ? `Give the folder of the whole model, ${above}.`
        : "A model also needs its other parts. Give the folder of a whole model.",
      supported: false,
    };
  }
  const type = String(config.model_type ?? "unknown");
  return {
    path,
    kind: "transformers-model",
    what: `a model of transformers (${type})`,
    details: { type, ...(Array.isArray(config.architectures) && { architectures: config.architectures.map(String) }) },
    advice: `It is not a model that makes images. ${basename(path)} may be the weights of a reward.`,
    supported: false,
  };
}
