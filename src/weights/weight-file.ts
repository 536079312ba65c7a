/** Files of weights, whatever their format, and weights that are spread over several. */
import { dirname, join } from "node:path";
import { z } from "zod";
import { InputError, nearest, quote } from "../errors/index.js";
import { readFully, withFile } from "../io/files.js";
import { readJson } from "../io/json.js";
import { openPytorch } from "./pytorch.js";
import { openSafetensors } from "./safetensors.js";
import type { WeightFile, WeightSource } from "./source.js";

/** A safetensors or PyTorch file. What it holds decides, not what it is called: both go by `.ckpt` and `.bin`. */
export async function openWeightFile(path: string): Promise<WeightFile> {
  const isPytorch = await withFile(path, async (file, fileBytes) => {
    const start = new Uint8Array(Math.min(9, fileBytes));
    await readFully(file, start, 0, path);
    // A safetensors header begins with its length in 8 bytes and a brace, a zip with PK, a pickle with its protocol.
    if (start[8] === 0x7b) return false;
    return (start[0] === 0x50 && start[1] === 0x4b) || start[0] === 0x80 || !path.endsWith(".safetensors");
  });
  return isPytorch ? openPytorch(path) : openSafetensors(path);
}

const MEBIBYTE = 2 ** 20;
/** Models of hundreds of gigabytes have some two hundred. */
const MOST_SHARDS = 1000;
/** A file beside the index, so that a hostile one does not lead out of its folder. */
const SHARD = /^[A-Za-z0-9_][A-Za-z0-9._-]*$/;

const shardIndex = z.looseObject({ weight_map: z.record(z.string(), z.string()) });

/** Weights in several files, which an index (`….safetensors.index.json`) lists: tensor → file. */
export async function openShards(indexPath: string): Promise<WeightSource> {
  const { weight_map } = await readJson(indexPath, shardIndex, 16 * MEBIBYTE);
  const places = new Map(Object.entries(weight_map));
  const names = [...new Set(places.values())].sort();
  if (names.length === 0)
    throw new InputError("file-malformed", `${indexPath}: weight_map lists no tensors. Fetch it again.`);
  if (names.length > MOST_SHARDS) {
    throw new InputError(
      "file-malformed",
      `${indexPath}: spreads its tensors over ${names.length} files; at most ${MOST_SHARDS} are read.`,
    );
  }
  const outside = names.find((name) => !SHARD.test(name));
  if (outside !== undefined) {
    throw new InputError(
      "file-malformed",
      `${indexPath}: ${quote(outside)} cannot be a file beside it. Fetch it again.`,
    );
  }
  const shards = new Map<string, WeightFile>();
  for (const name of names) shards.set(name, await openWeightFile(join(dirname(indexPath), name)));
  const find = (tensor: string) => shards.get(places.get(tensor) ?? "")?.get(tensor);
  for (const [tensor, name] of places) {
    if (find(tensor)) continue;
    const near = nearest(tensor, shards.get(name)?.names() ?? []);
    throw new InputError(
      "file-malformed",
      `${indexPath}: ${name} has no tensor ${quote(tensor)}${near ? `; the nearest name is ${quote(near)}` : ""}. Do index and files belong together?`,
    );
  }
  return { describe: indexPath, get: find, names: () => places.keys() };
}
