/** One model as a folder, as a single file and from the hub: the same tensors, the same pictures. */

import { cp, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gunzipSync } from "node:zlib";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { runCommandLine } from "../src/cli/program.js";
import { type Settings, settingsSchema } from "../src/config/settings.js";
import { InputError } from "../src/errors/index.js";
import { generate } from "../src/pipeline/generate.js";
import { decodeGraph, denoiser, textGraph } from "../src/pipeline/graphs.js";
import { resolveModel } from "../src/pipeline/open-model.js";
import { openPipeline, pipelineOf } from "../src/pipeline/pipeline.js";
import { allocate } from "../src/tensor/host.js";
import { sizeOf } from "../src/tensor/shape.js";
import { singleFileModel } from "../src/weights/ldm/single-file.js";
import type { WeightSource } from "../src/weights/source.js";
import { filesOf, type HubServer, startHub } from "./hub-server.js";
import { TINY_SD } from "./tiny.js";

const GOLDENS = fileURLToPath(new URL("./goldens", import.meta.url));
const FAMILIES = [
  ["sd1", TINY_SD],
  ["sd2", join(GOLDENS, "families/sd2/model")],
  ["sdxl", join(GOLDENS, "families/sdxl/model")],
] as const;
const single = (name: string) => join(GOLDENS, "ldm", `${name}.safetensors`);

let root: string;
let hub: HubServer;
const environment = { ...process.env };
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "alignprop-sources-"));
  hub = await startHub("org/tiny-sd");
  for (const [path, content] of await filesOf(TINY_SD)) hub.files.set(path, content);
});
afterAll(async () => {
  await hub.close();
  await rm(root, { recursive: true });
});
afterEach(() => {
  process.env = { ...environment };
});

/** A hub that is only this one, and a cache of its own. */
async function useHub(server: HubServer = hub): Promise<string> {
  const cache = await mkdtemp(join(root, "cache-"));
  Object.assign(process.env, { HF_ENDPOINT: server.endpoint, HF_HUB_CACHE: cache });
  delete process.env.HF_TOKEN;
  delete process.env.HF_HUB_OFFLINE;
  server.requests.length = 0;
  return cache;
}

const loading = (changes: Partial<Settings["loading"]>) => ({ ...settingsSchema.parse({}).loading, ...changes });

async function picture(model: string, changes: Partial<Settings["loading"]> = {}): Promise<Uint8Array> {
  const sampling = { ...settingsSchema.parse({}).sampling, steps: 2, height: 32, width: 32 };
  const images = [{ prompt: "a cat", seed: 3 }];
  const options = { model, loading: loading(changes), device: "cpu", threads: 1, sampling, images } as const;
  const [image] = await generate(options);
  return image?.pixels as Uint8Array;
}

describe.each(FAMILIES)("%s", (name, folder) => {
  test("draws the same picture from a single file as from the folder that it was made from", async () => {
    const expected = await picture(folder);
    expect(new Set(expected).size).toBeGreaterThan(50);
    expect(await picture(single(name), { config: folder })).toEqual(expected);
  });
});

test("a snapshot of the cache runs, although its files are links that lead out of it", async () => {
  const cache = await useHub();
  const expected = await picture(TINY_SD);
  expect(await picture("org/tiny-sd")).toEqual(expected);
  // Its links resolve from elsewhere too, through a link to the whole cache.
  await symlink(cache, join(root, "linked-cache"));
  Object.assign(process.env, { HF_HUB_CACHE: join(root, "linked-cache"), HF_HUB_OFFLINE: "1" });
  expect(await picture("org/tiny-sd")).toEqual(expected);
});

describe("a model's name", () => {
  const resolve = (model: string, changes: Partial<Settings["loading"]> = {}) =>
    resolveModel({ model, loading: loading(changes) });
  const complaint = (model: string, changes: Partial<Settings["loading"]> = {}) =>
    resolve(model, changes).then(
      () => "accepted",
      (error: unknown) => {
        expect(error).toBeInstanceOf(InputError);
        return (error as Error).message;
      },
    );

  test("that is a folder is not looked for in the hub", async () => {
    await useHub();
    expect((await resolve(TINY_SD)).path).toBe(TINY_SD);
    expect((await resolve("models/emoji-64")).path).toMatch(/models[/\\]emoji-64$/);
    expect(hub.requests).toEqual([]);
  });

  test("that misspells a folder is told so without the network", async () => {
    await useHub();
    expect(await complaint("models/emoji-65")).toMatch(
      /models\/emoji-65: not found in the folder .*models\. Is it models\/emoji-64\? .* write hf:\/\/models\/emoji-65/,
    );
    for (const path of ["./org/tiny-sd", "/org/tiny-sd", "org\\tiny-sd", "~/tiny-sd", "tiny-sd"]) {
      await expect(resolve(path).then(({ path }) => openPipeline(path))).rejects.toThrow(/not found/);
    }
    expect(hub.requests).toEqual([]);
  });

  test("may say its revision, or the setting does", async () => {
    await useHub();
    expect(await complaint("org/tiny-sd@v1")).toMatch(/no revision v1/);
    expect((await resolve("org/tiny-sd", { revision: "v1/beta" })).path).toMatch(/snapshots/);
    expect(await complaint("hf://org/tiny-sd", { revision: "v9" })).toMatch(/no revision v9/);
  });

  test("may be one file of a repository, with CLIP's tokenizer from the hub where none lies beside it", async () => {
    const server = await startHub("org/single");
    try {
      const cache = await useHub(server);
      server.files.set("v1.safetensors", await readFile(single("sd1")));
      const beside = await complaint("org/single/v1.safetensors");
      expect(beside).toMatch(
        /a single file holds no tokenizer, and none can be had from the hub\. Put CLIP's vocab\.json/,
      );
      expect(beside).toMatch(/openai\/clip-vit-large-patch14: is not a local folder, and .* shows no such model/);
      for (const [path, content] of await filesOf(join(TINY_SD, "tokenizer"))) {
        server.files.set(`tokenizer/${path}`, content);
      }
      const found = await resolve("org/single/v1.safetensors", { tokenizer: "org/single" });
      expect(found.path.startsWith(cache)).toBe(true);
      await expect(openPipeline(found.path, found)).rejects.toThrow(/32 groups do not divide 8 channels/);
    } finally {
      await server.close();
    }
  });

  test("without the network and the cache says what to do", async () => {
    await useHub();
    expect(await complaint("org/tiny-sd", { offline: true })).toMatch(
      /not in the cache .*\(offline\)\. Download it once/,
    );
    expect(hub.requests).toEqual([]);
  });
});

test("what the model predicts can be said by the user, of a folder too", async () => {
  expect((await openPipeline(TINY_SD)).scheduler.prediction_type).toBe("epsilon");
  const pipeline = await openPipeline(TINY_SD, { prediction: "v_prediction" });
  expect(pipeline.scheduler.prediction_type).toBe("v_prediction");
});

describe("the published architectures", () => {
  /** Tensors of these shapes without elements, but for the one that is turned over when it is opened. */
  function shapesOnly(shapes: Record<string, number[]>): WeightSource {
    return {
      describe: "shapes",
      names: () => Object.keys(shapes),
      get(name) {
        const shape = shapes[name];
        const size = name.endsWith("text_projection") ? sizeOf(shape ?? []) : 0;
        return shape && { kind: "memory", dtype: "float16", shape, data: allocate("float16", size) };
      },
    };
  }

  test.each(["sd1", "sd2", "sdxl"])("of %s build all their graphs on a single file's tensors", async (name) => {
    const packed = await readFile(join(GOLDENS, "ldm/published.json.gz"));
    const { [name]: published } = JSON.parse(gunzipSync(packed).toString());
    const source = shapesOnly(published.single_file);
    const model = await singleFileModel("shapes", source, { tokenizer: join(TINY_SD, "tokenizer"), note: () => {} });
    const pipeline = await pipelineOf(model);
    const [height, width] = pipeline.unet.sampleSize as readonly [number, number];
    const size = { height, width };
    const graphs = [
      textGraph(pipeline),
      denoiser(pipeline, { batch: 1, size, guidanceScale: 7.5 }).graph,
      decodeGraph(pipeline, 1, size),
    ];
    expect(Object.values(graphs[2]?.outputs ?? {})[0]?.shape).toEqual([1, 3, 8 * height, 8 * width]);
  });
});

test("the command line fetches a model, tells how it goes on, and keeps stdout for the result", async () => {
  await useHub();
  const [said, printed]: [string[], string[]] = [[], []];
  const terminal = {
    isTTY: false,
    print: (line: string) => printed.push(line),
    say: (line: string) => said.push(line),
    update: () => {},
  };
  const out = join(root, "cat.png");
  const args = ["generate", "--model", "org/tiny-sd", "--prompt", "a cat", "--steps", "1", "--threads", "1", "--json"];
  expect(await runCommandLine([...args, "--out", out], terminal)).toBe(0);
  expect(printed).toHaveLength(1);
  expect(JSON.parse(printed[0] as string)).toMatchObject({ images: [{ file: out }] });
  expect(said).toContainEqual(
    expect.stringMatching(/^fetching org\/tiny-sd: unet\/diffusion_pytorch_model\.safetensors \(.* of 0\.\d+ MB\)$/),
  );
  await useHub();
  expect(await runCommandLine([...args, "--offline", "--out", join(root, "no.png")], terminal)).toBe(2);
  expect(said.at(-1)).toMatch(/^error: model org\/tiny-sd: is not a local folder and not in the cache/);
});

test("a checkpoint's name decides nothing, its content does", async () => {
  const path = join(root, "sd1.ckpt");
  await cp(single("sd1"), path);
  expect(await picture(path, { config: TINY_SD })).toEqual(await picture(TINY_SD));
  await writeFile(path, "not a checkpoint at all");
  await expect(picture(path, { config: TINY_SD })).rejects.toThrow(InputError);
});
