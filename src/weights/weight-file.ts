/** Opens weight files of either format, and weights that are sharded over several files. */
import { dirname, join } from "node:path";
import { z } from "zod";
import { InputError, nearest, quote } from "../errors/index.js";
import { readFully, withFile } from "../io/files.js";
import { readJson } from "../io/json.js";
import { openPytorch } from "./pytorch.js";
import { openSafetensors } from "./safetensors.js";
import type { WeightFile, WeightSource } from "./source.js";

/** Opens a safetensors or PyTorch file. The content decides which, because both formats go by `.ckpt` and `.bin`. */
export async function openWeightFile(path: string): Promise<WeightFile> {
  const isPytorch = await withFile(path, async (file, fileBytes) => {
    const start = new Uint8Array(Math.min(9, fileBytes));
    await readFully(file, start, 0, path);
    // safetensors starts with an 8-byte length and then "{", a zip with "PK", a pickle of protocol 2 or later with 0x80.
    if (start[8] === 0x7b) return false;
    return (start[0] === 0x50 && start[1] === 0x4b) || start[0] === 0x80 || !path.endsWith(".safetensors");
  });
  return isPytorch ? openPytorch(path) : openSafetensors(path);
}

const MEBIBYTE = 2 ** 20;
/** Models of hundreds of gigabytes have about 200. */
const MAX_SHARDS = 1000;
/** The name of a file beside the index, so that a hostile index cannot refer to files outside its folder. */
const SHARD = /^[A-Za-z0-9_][A-Za-z0-9._-]*$/;

const shardIndex = z.looseObject({ weight_map: z.record(z.string(), z.string()) });

/**
 * Opens sharded weights by their index (`….safetensors.index.json`), which maps each tensor to the name of its file.
 */
export async function openShards(indexPath: string): Promise<WeightSource> {
  const { weight_map } = await readJson(indexPath, shardIndex, 16 * MEBIBYTE);
  const shardOf = new Map(Object.entries(weight_map));
  const names = [...new Set(shardOf.values())].sort();
  if (names.length === 0) {
    throw new InputError("file-malformed", `${indexPath}: weight_map lists no tensors. Download it again.`, {
      path: indexPath,
      key: "weight_map",
    });
  }
  if (names.length > MAX_SHARDS) {
    throw new InputError(
      "file-unsupported",
      `${indexPath}: spreads its tensors over ${names.length} files, but at most ${MAX_SHARDS} are supported.`,
      { path: indexPath, found: names.length, expected: MAX_SHARDS },
    );
  }
  const outside = names.find((name) => !SHARD.test(name));
  if (outside !== undefined) {
    throw new InputError(
      "path-unsafe",
      `${indexPath}: ${quote(outside)} is not the name of a file beside it. Download it again from a source you trust.`,
      { path: indexPath, found: outside },
    );
  }
  const shards = new Map<string, WeightFile>();
  for (const name of names) shards.set(name, await openWeightFile(join(dirname(indexPath), name)));
  const find = (tensor: string) => shards.get(shardOf.get(tensor) ?? "")?.get(tensor);
  for (const [tensor, file] of shardOf) {
    if (find(tensor)) continue;
    const suggestion = nearest(tensor, shards.get(file)?.names() ?? []);
    const hint = suggestion === undefined ? "" : `; the nearest name is ${quote(suggestion)}`;
    throw new InputError(
      "tensor-missing",
      `${indexPath}: ${file} has no tensor ${quote(tensor)}${hint}. Do the index and the files belong together?`,
      { path: indexPath, file, tensor, suggestion },
    );
  }
  return { describe: indexPath, get: find, names: () => shardOf.keys() };
}
