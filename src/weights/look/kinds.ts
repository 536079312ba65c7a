/** What a file or folder can be. */
import { InputError } from "../../errors/index.js";

export type LookKind =
  | ("pipeline" | "model-file" | "component" | "component-file" | "transformers-model" | "tokenizer")
  | ("adapter" | "textual-inversion" | "controlnet" | "other-architecture" | "weights")
  | ("run" | "checkpoint" | "training-state" | "recipe" | "foreign-recipe" | "json" | "text")
  | ("onnx" | "image" | "pickle" | "gguf" | "archive" | "web-page" | "git-lfs-pointer" | "damaged")
  | ("folder" | "empty" | "missing" | "unknown");

export interface LookOptions {
  /** What the U-Net of a model in one file predicts. */
  readonly prediction?: "epsilon" | "v_prediction" | "sample" | undefined;
}

export interface Look {
  readonly path: string;
  readonly kind: LookKind;
  /** A noun with its article: "a LoRA adapter". */
  readonly what: string;
  /** Properties by name, such as `rank`. */
  readonly details: Readonly<Record<string, string | number | readonly string[]>>;
  /** What to do with it: a sentence. */
  readonly advice: string;
  /** A command that uses it. */
  readonly command?: readonly string[];
  /** Whether this project can use it for what it is. */
  readonly supported: boolean;
  /** The error of the reader that refuses it. */
  readonly cause?: InputError;
}

export function textualInversion(path: string, details: Look["details"]): Look {
  return {
    path,
    kind: "textual-inversion",
    what: "a textual inversion (the embedding of a new word)",
    details,
    advice:
      "It cannot be loaded by itself. Load it with diffusers (load_textual_inversion) and save the pipeline: the folder's " +
      "tokenizer then has the word.",
    supported: false,
  };
}

/** What a command can need, with its article, and the kinds that are that. */
const NEEDS = {
  "a model": ["pipeline", "model-file", "other-architecture"],
  "an adapter": ["adapter", "run", "checkpoint"],
} as const satisfies Record<string, readonly LookKind[]>;

/** Kinds whose own reader says more than a look at them. */
const VAGUE: readonly LookKind[] = [
  "missing",
  "damaged",
  "folder",
  "empty",
  "text",
  "unknown",
  "weights",
  "pickle",
  "json",
];

/**
 * Refuses a file or folder of another kind than is needed by saying what it is. Kinds that are too vague to say are left to
 * their readers.
 *
 * @param place where it was named, such as `--adapter`
 * @throws InputError `model-unsupported` or `adapter-unsupported`
 */
export function requireKind(found: Look, place: string, needed: keyof typeof NEEDS): void {
  const { path, kind, what, advice, command } = found;
  const isNeeded = (NEEDS[needed] as readonly LookKind[]).includes(kind);
  // Their readers say more about what is missing, or not supported in them.
  const isReaders =
    found.details.missing !== undefined || (kind === "adapter" && found.details.architecture === undefined);
  if ((isNeeded && (found.supported || isReaders)) || VAGUE.includes(kind)) return;
  if (found.cause) throw found.cause;
  const code = needed === "a model" ? "model-unsupported" : "adapter-unsupported";
  throw new InputError(code, `${place}: ${path} is ${what}${isNeeded ? "" : `, not ${needed}`}. ${advice}`, {
    path,
    found: kind,
    what,
    ...(command && { suggestion: command.join(" ") }),
  });
}
