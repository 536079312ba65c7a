/** Says what a text file is: a recipe, a configuration, or something else. */
import * as yaml from "yaml";
import { InputError } from "../../errors/index.js";
import { readText } from "../../io/files.js";
import { isRecord } from "../../io/record.js";
import type { Look, LookKind } from "./kinds.js";

const MAX_BYTES = 2 ** 20;

export async function lookAtText(path: string, bytes: number): Promise<Look> {
  const is = (kind: LookKind, what: string, advice: string, rest: Partial<Look> = {}): Look => ({
    path,
    kind,
    what,
    details: { bytes },
    advice,
    supported: false,
    ...rest,
  });
  const text = bytes > MAX_BYTES ? undefined : await readText(path, MAX_BYTES).catch(tolerate);
  const value = text === undefined ? undefined : parsed(text);
  if (!isRecord(value)) return is("text", "a text file", "Give a model, an adapter, an ONNX file or a recipe.");
  const { _class_name: className, model_type: modelType, peft_type: peftType } = value;
  if (typeof className === "string") {
    return is("json", `the configuration of a ${className}`, "Give the folder that it lies in, or the folder above.");
  }
  if (typeof modelType === "string" || typeof peftType === "string") {
    const owner = typeof peftType === "string" ? `an adapter (${peftType})` : `a ${modelType} model`;
    return is("json", `the configuration of ${owner}`, "Give the folder that it lies in.");
  }
  const keys = Object.keys(value);
  if (keys.some((key) => RECIPE_KEYS.includes(key))) {
    return is("recipe", "a recipe", "Train with it.", { supported: true, command: ["train", path] });
  }
  return is(
    "text",
    `a mapping of ${keys.slice(0, 5).join(", ")}`,
    "Give a model, an adapter, an ONNX file or a recipe.",
  );
}

/** Sections that only a recipe has. */
const RECIPE_KEYS: readonly string[] = ["reward", "sampling", "estimator", "lora", "prompts", "optimizer", "trainable"];

function parsed(text: string): unknown {
  try {
    return yaml.parse(text, { maxAliasCount: 0, logLevel: "silent" });
  } catch {
    return undefined;
  }
}

function tolerate(error: unknown): undefined {
  if (!(error instanceof InputError)) throw error;
  return undefined;
}
