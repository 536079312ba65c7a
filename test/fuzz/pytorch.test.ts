/** Mutated pickles, zips and legacy files of torch.save are read correctly or refused, and no code in them runs. */
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, test } from "vitest";
import { BYTES_PER_ELEMENT } from "../../src/tensor/dtype.js";
import type { Rng } from "../../src/tensor/rng.js";
import { sizeOf } from "../../src/tensor/shape.js";
import { unpickle } from "../../src/weights/pickle.js";
import { openPytorch } from "../../src/weights/pytorch.js";
import { storageOf, TORCH_NAMES } from "../../src/weights/pytorch-pickle.js";
import { dict, int, pickle, tensor, text, torchZip, zip } from "../torch-file.js";
import { fuzz, LIMIT, scratchFolder } from "./fuzz.js";
import { mutateBytes, mutatePickle, opcodesOf } from "./mutate.js";

const GOLDEN = fileURLToPath(new URL("../goldens/pytorch/", import.meta.url));
const plain = JSON.parse(readFileSync(join(GOLDEN, "golden.json"), "utf8")).plain as Record<string, string>;

const folder = scratchFolder();
afterAll(() => rmSync(folder, { recursive: true }));

// A small file with contiguous and other views, two types, other entries, and a nested state_dict.
const data = pickle(
  dict({
    epoch: int(3),
    state_dict: dict({
      weight: tensor({ elements: 6, shape: [2, 3], strides: [3, 1] }),
      "weight.T": tensor({ elements: 6, shape: [3, 2], strides: [1, 3] }),
      bias: tensor({ key: "1", storageClass: "HalfStorage", elements: 4, offset: 1, shape: [3], strides: [1] }),
    }),
  }),
);
const storages = { 0: Buffer.alloc(24, 1), 1: Buffer.alloc(8, 2) };
const small = torchZip(data, storages);
const packed = readFileSync(join(GOLDEN, "compressed.pth"));
const legacy = readFileSync(join(GOLDEN, "legacy.pt"));
const fragments = [
  "PK\x03\x04",
  "PK\x01\x02",
  "PK\x05\x06",
  "PK\x06\x06",
  "PK\x06\x07",
  "archive/data/1",
  "../",
  data,
  small,
];

/** Opens the file and checks every tensor. */
async function readAll(bytes: Uint8Array, check: (data: Uint8Array) => void = () => {}): Promise<void> {
  const path = join(folder, "mutant.pt");
  writeFileSync(path, bytes);
  const file = await openPytorch(path);
  for (const name of file.names()) {
    const stored = file.get(name);
    if (!stored) throw new Error(`${name} has a name but no tensor`);
    const length = sizeOf(stored.shape) * BYTES_PER_ELEMENT[stored.dtype];
    const data =
      stored.kind === "memory"
        ? new Uint8Array(stored.data.buffer)
        : bytes.subarray(stored.offset, stored.offset + stored.length);
    if (data.length !== length) throw new Error(`${name} has ${data.length} bytes, not ${length}`);
    check(data);
  }
}

test("pickles", LIMIT, async () => {
  const valid = [data, ...Object.values(plain).map((base64) => Buffer.from(base64, "base64"))];
  const opcodes = valid.map(opcodesOf);
  const mutate = (rng: Rng) => {
    const i = rng.integer(0, valid.length - 1);
    return rng.uniform() < 0.6
      ? mutatePickle(opcodes[i] as Buffer[], rng)
      : mutateBytes(valid[i] as Buffer, rng, [...valid, "cos\nsystem\n", text("x"), "\x93", "R"]);
  };
  await fuzz(3_1, mutate, (bytes) => unpickle(bytes, { where: "mutant", names: TORCH_NAMES, persistent: storageOf }));
});

test("zips", LIMIT, async () => {
  const names = zip([{ name: "x/data.pkl", content: data }]);
  const mutate = (rng: Rng) => mutateBytes(rng.choice([small, small, packed]), rng, [...fragments, names]);
  await fuzz(3_2, mutate, (bytes) => readAll(bytes));
});

test("pickles in valid zips, and files in the legacy layout", LIMIT, async () => {
  const opcodes = opcodesOf(data);
  // Each storage repeats one byte, so that a tensor that reads outside of its storage is noticed.
  const fromOneStorage = (bytes: Uint8Array) => {
    if (!bytes.every((byte) => byte === bytes[0] && (byte === 1 || byte === 2)))
      throw new Error("bytes of another storage");
  };
  const mutate = (rng: Rng) =>
    rng.uniform() < 0.5
      ? { bytes: torchZip(mutatePickle(opcodes, rng), storages), check: fromOneStorage }
      : { bytes: mutateBytes(legacy, rng, [...fragments, legacy.subarray(0, 600)]) };
  await fuzz<{ bytes: Buffer; check?: typeof fromOneStorage }>(3_3, mutate, ({ bytes, check }) =>
    readAll(bytes, check),
  );
});
