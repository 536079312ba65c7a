// biome-ignore-all lint/suspicious/noControlCharactersInRegex: signatures are bytes
/** Recognizes the format of a file from its first bytes. */

export type Format =
  | ("safetensors" | "pytorch" | "zip" | "onnx")
  | ("image" | "gguf" | "archive" | "web page" | "Git LFS pointer" | "HDF5" | "TensorFlow" | "NumPy")
  | ("empty" | "text" | "unknown");

/** The first bytes as characters of one byte each. */
const SIGNATURES: readonly (readonly [Format, RegExp, string])[] = [
  ["image", /^\x89PNG\r\n\x1a\n/, "a PNG picture"],
  ["image", /^\xff\xd8\xff/, "a JPEG picture"],
  ["image", /^GIF8[79]a/, "a GIF picture"],
  ["image", /^RIFF.{4}WEBP/s, "a WebP picture"],
  ["image", /^.{4}ftyp(avif|avis|heic|heix|mif1)/s, "an AVIF or HEIC picture"],
  ["image", /^(II\*\0|MM\0\*)/, "a TIFF picture"],
  ["image", /^BM.{8}\0\0\0.\0\0\0/s, "a BMP picture"],
  ["gguf", /^GGUF/, "a GGUF file of quantized weights (llama.cpp, stable-diffusion.cpp)"],
  ["HDF5", /^\x89HDF\r\n/, "an HDF5 file (Keras)"],
  ["NumPy", /^\x93NUMPY/, "a NumPy array"],
  ["archive", /^7z\xbc\xaf/, "a 7-Zip archive"],
  ["archive", /^Rar!\x1a\x07/, "a RAR archive"],
  ["archive", /^\x1f\x8b/, "a gzip archive"],
  ["archive", /^\x28\xb5\x2f\xfd/, "a Zstandard archive"],
  ["archive", /^BZh[1-9]/, "a bzip2 archive"],
  ["archive", /^\xfd7zXZ\0/, "an xz archive"],
  ["Git LFS pointer", /^version https:\/\/git-lfs/, "a Git LFS pointer, not the file itself"],
  ["web page", /^\s*<(!doctype|html)/i, "a web page"],
  ["safetensors", /^.{6}\0\0\{/s, "a safetensors file"],
  ["zip", /^PK\x03\x04/, "a zip archive"],
  ["pytorch", /^\x80[\x02-\x05]/, "a pickle of Python"],
  // The field ir_version of an ONNX model, and after it a name, the operator sets or the graph.
  ["onnx", /^\x08[\x01-\x1f][\x12\x1a\x22\x2a\x3a\x42]/, "an ONNX model"],
];

/** The number of bytes that `formatOf` needs. */
export const SIGNATURE_BYTES = 512;

/** @param bytes the first bytes of the file, or all if it is shorter */
export function formatOf(bytes: Uint8Array): { readonly format: Format; readonly what: string } {
  if (bytes.length === 0) return { format: "empty", what: "an empty file" };
  const text = Buffer.from(bytes).toString("latin1");
  const found = SIGNATURES.find(([, pattern]) => pattern.test(text));
  if (found) return { format: found[0], what: found[2] };
  const isText = !/[\x00-\x08\x0e-\x1f]/.test(text);
  return isText ? { format: "text", what: "a text file" } : { format: "unknown", what: "a file of an unknown format" };
}
