import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { float32 } from "../tensor/host.js";
import { fingerprint } from "./fingerprint.js";
import { openSafetensors, writeSafetensors } from "./safetensors.js";
import { fromTensors } from "./source.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-fingerprint-"));
afterAll(() => rm(scratch, { recursive: true }));

async function ofFile(name: string, tensors: Record<string, number[]>): Promise<string> {
  const path = join(scratch, name);
  const entries = Object.entries(tensors).map(([key, data]) => [key, float32(Float32Array.from(data), [data.length])]);
  await writeSafetensors(path, new Map(entries as [string, ReturnType<typeof float32>][]));
  return fingerprint(await openSafetensors(path));
}

test("weights have the same fingerprint in another file, and another one when any element or name differs", async () => {
  const original = await ofFile("a", { a: [1, 2], b: [3] });
  expect(await ofFile("b", { b: [3], a: [1, 2] })).toBe(original);
  const others = [
    await ofFile("c", { a: [1, 2], b: [4] }),
    await ofFile("d", { a: [1, 2], c: [3] }),
    await ofFile("e", { a: [1], b: [2, 3] }),
  ];
  expect(new Set([original, ...others]).size).toBe(4);
});

test("weights in memory have fingerprints too", async () => {
  const of = (value: number) => fingerprint(fromTensors(new Map([["a", float32(Float32Array.of(value), [1])]])));
  expect(await of(1)).toBe(await of(1));
  expect(await of(1)).not.toBe(await of(2));
});
