/**
 * An aesthetic head in the layout of the published one, from a file as torch.save writes it to a score. The published file itself
 * is tested where it is at hand (src/rewards/published.test.ts, src/weights/pytorch.test.ts).
 */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { interpret } from "../src/graph/interpret.js";
import { aestheticConfigOf, aestheticScore } from "../src/models/heads/aesthetic.js";
import { frozenScope } from "../src/nn/scope.js";
import { input } from "../src/ops/index.js";
import { fromNumbers, type HostTensor } from "../src/tensor/host.js";
import { Rng } from "../src/tensor/rng.js";
import { openPytorch } from "../src/weights/pytorch.js";
import { readTensor, withPrefix } from "../src/weights/source.js";
import { dict, pickle, tensor, torchZip } from "./torch-file.js";

/** The published head has 768, 1024, 128, 64, 16, 1, under the same layer numbers. */
const WIDTHS = [12, 10, 8, 6, 4, 1];
const LAYERS = [0, 2, 4, 6, 7];

const rng = new Rng(1);
const layers = LAYERS.map((index, i) => {
  const [inFeatures, outFeatures] = [WIDTHS[i] ?? 0, WIDTHS[i + 1] ?? 0];
  const numbers = (count: number) => Float32Array.from({ length: count }, () => rng.normal());
  return { index, inFeatures, outFeatures, weight: numbers(outFeatures * inFeatures), bias: numbers(outFeatures) };
});

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "alignprop-head-"));
});
afterAll(() => rm(folder, { recursive: true }));

async function writeHead(): Promise<string> {
  const storages: Record<string, Uint8Array> = {};
  const entries: Record<string, Buffer> = {};
  for (const { index, inFeatures, outFeatures, weight, bias } of layers) {
    for (const [name, data, shape, strides] of [
      [`layers.${index}.weight`, weight, [outFeatures, inFeatures], [inFeatures, 1]],
      [`layers.${index}.bias`, bias, [outFeatures], [1]],
    ] as const) {
      const key = String(Object.keys(storages).length);
      storages[key] = new Uint8Array(data.buffer);
      entries[name] = tensor({ key, elements: data.length, shape, strides });
    }
  }
  const path = join(folder, "head.pth");
  await writeFile(path, torchZip(pickle(dict(entries)), storages));
  return path;
}

/** y = W x + b, layer after layer, with nothing between them. */
function score(embedding: readonly number[]): number {
  let x = [...embedding];
  for (const { inFeatures, outFeatures, weight, bias } of layers) {
    const row = (out: number) => x.reduce((sum, value, i) => sum + value * (weight[out * inFeatures + i] ?? 0), 0);
    x = Array.from({ length: outFeatures }, (_, out) => row(out) + (bias[out] ?? 0));
  }
  return x[0] ?? Number.NaN;
}

test("a head of five Linear layers in a PyTorch file gives the score of its formula", async () => {
  const head = withPrefix(await openPytorch(await writeHead()), "head.");
  const config = aestheticConfigOf(head, "head");
  expect(config).toEqual({
    inFeatures: 12,
    layers: layers.map(({ index, outFeatures }) => ({ index, outFeatures })),
  });

  const weights = new Map<string, HostTensor>();
  for (const name of head.names()) {
    const stored = head.get(name);
    if (stored) weights.set(name, await readTensor(stored));
  }
  const embeddings = [0, 1].map(() => Array.from({ length: 12 }, () => rng.normal()));
  const x = input([2, 12]);
  const graph = { name: "head", inputs: { x }, outputs: { y: aestheticScore(frozenScope(head, "head"), config, x) } };
  const { y } = interpret(graph, { x: fromNumbers(embeddings.flat(), [2, 12]) }, (name) => weights.get(name));
  for (const [i, embedding] of embeddings.entries()) {
    // The interpreter computes in float64, from embeddings that it holds as float32.
    const expected = score(embedding.map(Math.fround));
    expect(y?.data[i]).toBeCloseTo(expected, 10);
  }
});
