/** Mutated safetensors files and shard indexes are read correctly or refused. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, test } from "vitest";
import { BYTES_PER_ELEMENT } from "../../src/tensor/dtype.js";
import { fromNumbers } from "../../src/tensor/host.js";
import type { Rng } from "../../src/tensor/rng.js";
import { sizeOf } from "../../src/tensor/shape.js";
import { openSafetensors, writeSafetensors } from "../../src/weights/safetensors.js";
import type { WeightSource } from "../../src/weights/source.js";
import { openShards } from "../../src/weights/weight-file.js";
import { fuzz, LIMIT, scratchFolder } from "./fuzz.js";
import { mutateBytes, mutateJson } from "./mutate.js";

const folder = scratchFolder();
afterAll(() => rmSync(folder, { recursive: true }));

const valid = join(folder, "model-00001-of-00002.safetensors");
await writeSafetensors(
  valid,
  new Map([
    ["unet.conv_in.weight", fromNumbers(new Float32Array(24), [2, 3, 2, 2])],
    ["unet.conv_in.bias", fromNumbers([1, 2], [2], "float16")],
    ["position_ids", fromNumbers([0, 1, 2], [3], "int64")],
  ]),
  { format: "pt" },
);
const original = readFileSync(valid);
const dataStart = 8 + Number(original.readBigUInt64LE());

function readAll(source: WeightSource, most: number): void {
  for (const name of source.names()) {
    const stored = source.get(name);
    if (stored?.kind !== "file") throw new Error(`${name} has a name but no tensor`);
    const length = sizeOf(stored.shape) * BYTES_PER_ELEMENT[stored.dtype];
    if (stored.length !== length || stored.offset + length > most) throw new Error(`${name} is outside of its file`);
  }
}

test("safetensors files with changed bytes or header values", LIMIT, async () => {
  const fragments = [
    "0",
    "-1",
    "1e309",
    "null",
    "[]",
    "{}",
    '"',
    ",",
    "\\",
    '"F16"',
    "[0,8]",
    "9007199254740993",
    "\0",
  ];
  const header = JSON.parse(original.subarray(8, dataStart).toString()) as unknown;
  const withHeader = (json: string) => {
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(Buffer.byteLength(json)));
    return Buffer.concat([length, Buffer.from(json), original.subarray(dataStart)]);
  };
  const mutate = (rng: Rng) =>
    rng.uniform() < 0.5 ? mutateBytes(original, rng, fragments) : withHeader(mutateJson(header, rng));
  const path = join(folder, "mutant.safetensors");
  await fuzz(3_4, mutate, async (bytes) => {
    writeFileSync(path, bytes);
    readAll(await openSafetensors(path), bytes.length);
  });
});

test("indexes of sharded weights", LIMIT, async () => {
  await writeSafetensors(
    join(folder, "model-00002-of-00002.safetensors"),
    new Map([["conv_out.bias", fromNumbers([1], [1])]]),
  );
  // A folder that a mutated path may lead to.
  mkdirSync(join(folder, "sub"));
  const index = {
    metadata: { total_size: 128 },
    weight_map: {
      "unet.conv_in.weight": "model-00001-of-00002.safetensors",
      "unet.conv_in.bias": "model-00001-of-00002.safetensors",
      "conv_out.bias": "model-00002-of-00002.safetensors",
    },
  };
  const path = join(folder, "model.safetensors.index.json");
  await fuzz(
    3_5,
    (rng) => mutateJson(index, rng),
    async (json) => {
      writeFileSync(path, json);
      readAll(await openShards(path), original.length);
    },
  );
});
