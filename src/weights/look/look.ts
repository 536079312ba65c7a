/**
 * Says what a file or folder is, from its content. Commands look before they read, so that a file of a wrong kind is named
 * as what it is, and `alignprop inspect` shows it.
 */
import { readdir, stat } from "node:fs/promises";
import { InputError } from "../../errors/index.js";
import { readFully, withFile } from "../../io/files.js";
import type { WeightFile } from "../source.js";
import { openWeightFile } from "../weight-file.js";
import { lookAtFolder } from "./folder.js";
import { type Look, type LookKind, type LookOptions, textualInversion } from "./kinds.js";
import { formatOf, SIGNATURE_BYTES } from "./signature.js";
import { lookAtTensors } from "./tensors.js";
import { lookAtText } from "./text.js";

/**
 * What a file or folder is, from its content.
 *
 * @param options what the user said of the file
 * @throws InputError `file-unreadable` if it may not be read
 * @example
 * const { kind, what, details } = await look("style.safetensors"); // "adapter", "a LoRA adapter", { rank: 16, … }
 */
export async function look(path: string, options: LookOptions = {}): Promise<Look> {
  const info = await stat(path).catch(() => undefined);
  if (info === undefined) {
    return {
      path,
      kind: "missing",
      what: "nothing: there is no such file or folder",
      details: {},
      advice: "Check the path.",
      supported: false,
    };
  }
  if (info.isDirectory()) return lookAtFolder(path, await readdir(path), (file) => look(file, options));
  const start = await withFile(path, async (file, size) => {
    const bytes = new Uint8Array(Math.min(SIGNATURE_BYTES, size));
    await readFully(file, bytes, 0, path);
    return bytes;
  });
  const { format, what } = formatOf(start);
  const is = (kind: LookKind, advice: string, rest: Partial<Look> = {}): Look => ({
    path,
    kind,
    what,
    details: { bytes: info.size },
    advice,
    supported: false,
    ...rest,
  });
  switch (format) {
    case "safetensors":
    case "pytorch":
    case "zip":
      return lookAtWeights(path, { otherwise: format === "zip" ? "archive" : "pickle", ...options });
    case "onnx":
      return is("onnx", "Use it as a reward.", { supported: true, command: ["reward", "check", path] });
    case "image":
      return is("image", "Score it with a reward.", { supported: true, command: ["score", path] });
    case "gguf":
      return is(
        "gguf",
        "Quantized weights cannot be trained on. Use the model's safetensors file or diffusers folder.",
      );
    case "archive":
      return is("archive", "Unpack it first.");
    case "web page":
      return is(
        "web-page",
        "It is what a site shows in place of the file. Download the file again, perhaps after signing in.",
      );
    case "Git LFS pointer":
      return is("git-lfs-pointer", "Run `git lfs pull` in its folder.");
    case "HDF5":
    case "TensorFlow":
    case "NumPy":
    case "unknown":
      return is("unknown", "Give a safetensors, PyTorch or ONNX file, or a folder.");
    case "empty":
      return is("empty", "Download it again.");
    case "text":
      return lookAtText(path, info.size);
  }
}

/** A safetensors or PyTorch file. If it cannot be opened, the error says why. */
async function lookAtWeights(
  path: string,
  { otherwise, ...options }: LookOptions & { readonly otherwise: LookKind },
): Promise<Look> {
  let file: WeightFile;
  try {
    file = await openWeightFile(path);
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    const keys = Array.isArray(error.facts.found) ? error.facts.found.map(String) : [];
    if (keys.includes("string_to_param")) {
      return textualInversion(path, { format: "A1111 (.pt)" });
    }
    const isArchive = otherwise === "archive" && error.facts.missing === "data.pkl";
    return {
      path,
      kind: isArchive ? "archive" : error.code === "file-malformed" ? "damaged" : "pickle",
      what: isArchive ? "a zip archive that torch.save did not write" : "a file of weights that cannot be read",
      details: { reason: error.message },
      advice: isArchive ? "Unpack it first." : error.message,
      supported: false,
    };
  }
  return lookAtTensors(path, file, options);
}
