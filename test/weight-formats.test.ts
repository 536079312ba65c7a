/** A U-Net with weights in each supported type and file format: the same numbers give the same output of ONNX Runtime. */
import { mkdtemp, readFile, realpath, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { parseUnetConfig } from "../src/models/unet/config.js";
import { unet, unetInputs } from "../src/models/unet/unet.js";
import { frozenScope } from "../src/nn/scope.js";
import { Runtime } from "../src/runtime/runtime.js";
import type { DType } from "../src/tensor/dtype.js";
import { fromNumbers, type HostTensor, toNumbers } from "../src/tensor/host.js";
import { Rng } from "../src/tensor/rng.js";
import { sizeOf, stridesOf } from "../src/tensor/shape.js";
import { openSafetensors, writeSafetensors } from "../src/weights/safetensors.js";
import { readTensor, type WeightSource, withPrefix } from "../src/weights/source.js";
import { openWeightFile } from "../src/weights/weight-file.js";
import { relativeError } from "./golden.js";
import { TINY_SD } from "./tiny.js";
import { dict, pickle, tensor, torchZip } from "./torch-file.js";

let folder: string;
let runtime: Runtime;
const trained = new Map<string, HostTensor>();

beforeAll(async () => {
  folder = await realpath(await mkdtemp(join(tmpdir(), "alignprop-formats-")));
  runtime = await Runtime.start({ threads: 1 });
  const file = await openSafetensors(join(TINY_SD, "unet/diffusion_pytorch_model.safetensors"));
  for (const name of file.names()) {
    const stored = file.get(name);
    if (stored) trained.set(name, await readTensor(stored));
  }
});
afterAll(async () => {
  await runtime.close();
  await rm(folder, { recursive: true });
});

const config = parseUnetConfig(JSON.parse(await readFile(join(TINY_SD, "unet/config.json"), "utf8")));

/** One call of the U-Net on fixed inputs. */
async function call(weights: WeightSource): Promise<HostTensor> {
  const { sample, timestep, encoderHiddenStates } = unetInputs(config, { batch: 1, height: 8, width: 8, tokens: 5 });
  const source = withPrefix(weights, "unet.");
  const output = unet(frozenScope(source, "unet"), config, { sample, timestep, encoderHiddenStates });
  const inputs = { sample, timestep, encoderHiddenStates };
  const program = await runtime.compile({ name: "unet", inputs, outputs: { output } }, source);
  const rng = new Rng(7);
  const noise = ({ shape }: { shape: readonly number[] }) => fromNumbers(rng.normals(sizeOf(shape)), shape);
  const feeds = {
    sample: noise(sample),
    timestep: fromNumbers([500], [1]),
    encoderHiddenStates: noise(encoderHiddenStates),
  };
  const results = await program.run(feeds);
  await program.release();
  return results.output as HostTensor;
}

const rounded = (dtype: DType) =>
  new Map([...trained].map(([name, x]) => [name, fromNumbers(toNumbers(x), x.shape, dtype)]));

const STORAGES = { float32: "FloatStorage", float16: "HalfStorage", bfloat16: "BFloat16Storage" } as const;

/** A file of torch.save whose storages are not aligned. */
function asPytorch(tensors: ReadonlyMap<string, HostTensor>, storageClass: string): Buffer {
  const entries = [...tensors];
  const views = entries.map(([name, { shape }], key): [string, Buffer] => [
    name,
    tensor({ key: String(key), storageClass, elements: sizeOf(shape), shape, strides: stridesOf(shape) }),
  ]);
  const storages = entries.map(([, { data }], key): [string, Uint8Array] => [
    String(key),
    new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
  ]);
  return torchZip(pickle(dict({ state_dict: dict(Object.fromEntries(views)) })), Object.fromEntries(storages));
}

test.each(["float32", "float16", "bfloat16"] as const)(
  "%s weights in a safetensors file and in a checkpoint give the same output as the same numbers in float32",
  async (dtype) => {
    const tensors = rounded(dtype);
    const single = new Map([...tensors].map(([name, x]) => [name, fromNumbers(toNumbers(x), x.shape)]));
    const paths = ["model.safetensors", "model.ckpt", "float32.safetensors"].map((name) => join(folder, name));
    const [safetensors, checkpoint, float32] = paths as [string, string, string];
    await writeSafetensors(safetensors, tensors);
    await writeFile(checkpoint, asPytorch(tensors, STORAGES[dtype]));
    await writeSafetensors(float32, single);

    const expected = await call(await openSafetensors(float32));
    expect(await call(await openWeightFile(safetensors))).toEqual(expected);
    const weights = await openWeightFile(checkpoint);
    expect(await call(weights)).toEqual(expected);

    // The runtime read the checkpoint itself, at offsets that are not multiples of the element size.
    const stored = [...weights.names()].map((name) => weights.get(name));
    expect(stored.every((x) => x?.kind === "file" && x.dtype === dtype)).toBe(true);
    expect(stored.some((x) => x?.kind === "file" && x.offset % 2 === 1)).toBe(true);
    // The output depends on how the weights are rounded.
    if (dtype !== "float32") {
      const original = await call(await openSafetensors(join(TINY_SD, "unet/diffusion_pytorch_model.safetensors")));
      expect(relativeError(expected, original)).toBeGreaterThan(1e-6);
    }
  },
);
