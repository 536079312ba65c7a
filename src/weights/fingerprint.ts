/** Identifies weights by their content. */
import { createHash } from "node:crypto";
import type { FileHandle } from "node:fs/promises";
import { readFully, withFile } from "../io/files.js";
import type { StoredTensor, WeightSource } from "./source.js";

type FileTensor = Extract<StoredTensor, { kind: "file" }>;

/** Files up to this size are read at once, because many small reads take longer. */
const MAX_WHOLE_BYTES = 2 ** 26;

/** SHA-256 of the names, types, shapes and elements of all tensors. It does not depend on where they are stored. */
export async function fingerprint(source: WeightSource): Promise<string> {
  const hash = createHash("sha256");
  const tensors = [...source.names()].sort().map((name) => ({ name, stored: source.get(name) as StoredTensor }));
  for (const { name, stored } of tensors) {
    hash.update(`${name} ${stored.dtype} ${stored.shape.join(",")}\n`);
    if (stored.kind === "memory") {
      hash.update(new Uint8Array(stored.data.buffer, stored.data.byteOffset, stored.data.byteLength));
    }
  }
  const inFiles = tensors.flatMap(({ stored }) => (stored.kind === "file" ? [stored] : []));
  for (const path of new Set(inFiles.map((stored) => stored.path))) {
    const own = inFiles.filter((stored) => stored.path === path);
    await withFile(path, async (file, size) => {
      if (size > MAX_WHOLE_BYTES) {
        for (const stored of own) await addTensor(hash, file, stored);
        return;
      }
      const bytes = new Uint8Array(size);
      await readFully(file, bytes, 0, path);
      for (const { offset, length } of own) hash.update(bytes.subarray(offset, offset + length));
    });
  }
  return hash.digest("hex");
}

/** Reads in pieces of 4 MiB, because a tensor may not fit in memory. */
async function addTensor(hash: ReturnType<typeof createHash>, file: FileHandle, { path, offset, length }: FileTensor) {
  const piece = new Uint8Array(Math.min(length, 2 ** 22));
  for (let done = 0; done < length; done += piece.length) {
    const part = piece.subarray(0, Math.min(piece.length, length - done));
    await readFully(file, part, offset + done, path);
    hash.update(part);
  }
}
