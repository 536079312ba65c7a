import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";

/** A folder of src imports only from itself and from those before it (docs/architecture.md). */
const LAYERS = [
  "errors",
  "io",
  "tensor",
  "images",
  "weights",
  "graph",
  "ops",
  "autodiff",
  "onnx",
  "nn",
  "models",
  "diffusion",
  "runtime",
  "cluster",
  "rewards",
  "estimators",
  "config",
  "pipeline",
  "scoring",
  "engine",
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

/** Folders that other folders enter by their index.ts. Tests may reach inside. */
const ROOMS = [
  ...["cluster", "rewards", "estimators", "config", "pipeline", "scoring", "engine", "train"],
  ...["record", "report", "publish", "trackers"].map((folder) => path.join("runs", folder)),
];

const roomOf = (file: string) => ROOMS.find((room) => file.startsWith(room + path.sep));

test("rooms are entered by their door", () => {
  const wrong = files.flatMap((file) =>
    importsOf(file)
      .filter((target) => target.startsWith("."))
      .map((target) => path.relative(SRC, path.resolve(SRC, path.dirname(file), target)))
      .filter((target) => roomOf(target) !== undefined && roomOf(target) !== roomOf(file))
      .filter((target) => path.basename(target) !== "index.js")
      .map((target) => `${file} imports ${target}`),
  );
  expect(wrong).toEqual([]);
});

test("at most 15 files take the whole Settings; the others take the sections that they need", () => {
  const importers = files.filter((file) =>
    [...readFileSync(path.join(SRC, file), "utf8").matchAll(/import (?:type )?\{([^}]*)\}/g)].some(([, names]) =>
      /(^|[\s,])(type )?Settings(?=[\s,]|$)/.test(names as string),
    ),
  );
  expect(importers.length).toBeLessThanOrEqual(15);
});

test("no files import each other in a circle, types included", () => {
  const graph = new Map(
    files.map((file) => [
      file,
      importsOf(file)
        .filter((target) => target.startsWith("."))
        .map((target) => path.relative(SRC, path.resolve(SRC, path.dirname(file), target)).replace(/\.js$/, ".ts")),
    ]),
  );
  const done = new Set<string>();
  const circleFrom = (file: string, above: readonly string[]): readonly string[] | undefined => {
    if (above.includes(file)) return [...above.slice(above.indexOf(file)), file];
    if (done.has(file)) return undefined;
    for (const target of graph.get(file) ?? []) {
      const circle = circleFrom(target, [...above, file]);
      if (circle) return circle;
    }
    done.add(file);
    return undefined;
  };
  expect(files.map((file) => circleFrom(file, [])).find((circle) => circle)).toBeUndefined();
});

test("only the runtime imports ONNX Runtime", () => {
  const importers = files.filter((file) => importsOf(file).includes("onnxruntime-node"));
  expect(importers).toEqual([path.join("runtime", "worker.js")]);
});
