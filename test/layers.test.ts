import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";

/** The folders of src in order. A folder imports only from itself and from folders before it (docs/architecture.md). */
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

test("the order has every folder of src", () => {
  const folders = new Set(files.filter((file) => file.includes(path.sep)).map((file) => file.split(path.sep)[0]));
  expect([...folders].sort()).toEqual([...LAYERS].sort());
});

test("folders import only from earlier folders", () => {
  const wrong = files.flatMap((file) =>
    importsOf(file)
      .filter((target) => target.startsWith("."))
      .map((target) => path.relative(SRC, path.resolve(SRC, path.dirname(file), target)))
      .filter((target) => file.includes(path.sep) && layerOf(target) > layerOf(file))
      .map((target) => `${file} imports ${target}`),
  );
  expect(wrong).toEqual([]);
});

/** Folders from which other folders import only through index.ts. Tests may import any of their files. */
const PUBLIC_BY_INDEX = [
  ...["cluster", "rewards", "estimators", "config", "pipeline", "scoring", "engine", "train"],
  ...["record", "report", "publish", "trackers"].map((folder) => path.join("runs", folder)),
];

const indexedFolderOf = (file: string) => PUBLIC_BY_INDEX.find((folder) => file.startsWith(folder + path.sep));

test("these folders are imported only through their index.ts", () => {
  const wrong = files.flatMap((file) =>
    importsOf(file)
      .filter((target) => target.startsWith("."))
      .map((target) => path.relative(SRC, path.resolve(SRC, path.dirname(file), target)))
      .filter((target) => indexedFolderOf(target) !== undefined && indexedFolderOf(target) !== indexedFolderOf(file))
      .filter((target) => path.basename(target) !== "index.js")
      .map((target) => `${file} imports ${target}`),
  );
  expect(wrong).toEqual([]);
});

test("at most 15 files import the whole Settings; the others take only the sections that they need", () => {
  const importers = files.filter((file) =>
    [...readFileSync(path.join(SRC, file), "utf8").matchAll(/import (?:type )?\{([^}]*)\}/g)].some(([, names]) =>
      /(^|[\s,])(type )?Settings(?=[\s,]|$)/.test(names as string),
    ),
  );
  expect(importers.length).toBeLessThanOrEqual(15);
});

test("there are no import cycles, types included", () => {
  const graph = new Map(
    files.map((file) => [
      file,
      importsOf(file)
        .filter((target) => target.startsWith("."))
        .map((target) => path.relative(SRC, path.resolve(SRC, path.dirname(file), target)).replace(/\.js$/, ".ts")),
    ]),
  );
  const done = new Set<string>();
  const cycleFrom = (file: string, chain: readonly string[]): readonly string[] | undefined => {
    if (chain.includes(file)) return [...chain.slice(chain.indexOf(file)), file];
    if (done.has(file)) return undefined;
    for (const target of graph.get(file) ?? []) {
      const cycle = cycleFrom(target, [...chain, file]);
      if (cycle) return cycle;
    }
    done.add(file);
    return undefined;
  };
  expect(files.map((file) => cycleFrom(file, [])).find((cycle) => cycle)).toBeUndefined();
});

test("only the runtime imports ONNX Runtime", () => {
  const importers = files.filter((file) => importsOf(file).includes("onnxruntime-node"));
  expect(importers).toEqual([path.join("runtime", "worker.js")]);
});
