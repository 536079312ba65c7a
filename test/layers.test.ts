import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";

/** A folder of src imports only from itself and from those before it (docs/architecture.md). */
const LAYERS = [
  "tensor",
  "weights",
  "graph",
  "ops",
  "autodiff",
  "onnx",
  "nn",
  "models",
  "diffusion",
  "rewards",
  "runtime",
  "cluster",
  "train",
  "runs",
  "cli",
];

const SRC = path.join(import.meta.dirname, "../src");
const files = readdirSync(SRC, { recursive: true, encoding: "utf8" }).filter(
  (file) => /\.(ts|js)$/.test(file) && !file.endsWith(".test.ts"),
);

const importsOf = (file: string) =>
  [...readFileSync(path.join(SRC, file), "utf8").matchAll(/(?:from|import\()\s*"([^"]+)"/g)].map(
    (match) => match[1] as string,
  );

const layerOf = (file: string) => LAYERS.indexOf(file.split(path.sep)[0] as string);

test("every folder of src has a place in the order", () => {
  const folders = new Set(files.filter((file) => file.includes(path.sep)).map((file) => file.split(path.sep)[0]));
  expect([...folders].sort()).toEqual([...LAYERS].sort());
});

test("folders import one way", () => {
  const wrong = files.flatMap((file) =>
    importsOf(file)
      .filter((target) => target.startsWith("."))
      .map((target) => path.relative(SRC, path.resolve(SRC, path.dirname(file), target)))
      .filter((target) => file.includes(path.sep) && layerOf(target) > layerOf(file))
      .map((target) => `${file} imports ${target}`),
  );
  expect(wrong).toEqual([]);
});

test("only the runtime imports ONNX Runtime", () => {
  const importers = files.filter((file) => importsOf(file).includes("onnxruntime-node"));
  expect(importers).toEqual([path.join("runtime", "worker.js")]);
});
