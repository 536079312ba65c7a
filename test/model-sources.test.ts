/** One model as a folder, as a single file and from the hub: the tensors and images are the same. */
import { cp, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gunzipSync } from "node:zlib";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { runCommandLine } from "../src/cli/program.js";
import { type Settings, settingsSchema } from "../src/config/settings.js";
import { generate } from "../src/pipeline/generate.js";
import { decodeGraph, denoiser, textGraph } from "../src/pipeline/graphs.js";
import { resolveModel } from "../src/pipeline/open-model.js";
import { openPipeline, pipelineOf } from "../src/pipeline/pipeline.js";
import { allocate } from "../src/tensor/host.js";
import { sizeOf } from "../src/tensor/shape.js";
import { singleFileModel } from "../src/weights/ldm/single-file.js";
import type { WeightSource } from "../src/weights/source.js";
import { inputError } from "./errors.js";
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

/** Makes this the only hub, with an empty cache. */
async function useHub(server: HubServer = hub): Promise<string> {
  const cache = await mkdtemp(join(root, "cache-"));
  Object.assign(process.env, { HF_ENDPOINT: server.endpoint, HF_HUB_CACHE: cache });
  delete process.env.HF_TOKEN;
  delete process.env.HF_HUB_OFFLINE;
  server.requests.length = 0;
  return cache;
}

const loading = (changes: Partial<Settings["loading"]>) => ({ ...settingsSchema.parse({}).loading, ...changes });

async function imageOf(model: string, changes: Partial<Settings["loading"]> = {}): Promise<Uint8Array> {
  const sampling = { ...settingsSchema.parse({}).sampling, steps: 2, height: 32, width: 32 };
  const images = [{ prompt: "a cat", seed: 3 }];
  const options = { model, loading: loading(changes), device: "cpu", threads: 1, sampling, images } as const;
  const [image] = await generate(options);
  return image?.pixels as Uint8Array;
}

describe.each(FAMILIES)("%s", (name, folder) => {
  test("generates the same image from a single file as from the folder that it was made from", async () => {
    const expected = await imageOf(folder);
    expect(new Set(expected).size).toBeGreaterThan(50);
    expect(await imageOf(single(name), { config: folder })).toEqual(expected);
  });
});

test("a snapshot in the cache works, although its files are links that lead out of it", async () => {
  const cache = await useHub();
  const expected = await imageOf(TINY_SD);
  expect(await imageOf("org/tiny-sd")).toEqual(expected);
  // The links also resolve through a link to the whole cache.
  await symlink(cache, join(root, "linked-cache"));
  Object.assign(process.env, { HF_HUB_CACHE: join(root, "linked-cache"), HF_HUB_OFFLINE: "1" });
  expect(await imageOf("org/tiny-sd")).toEqual(expected);
});

describe("a model's name", () => {
  const resolve = (model: string, changes: Partial<Settings["loading"]> = {}) =>
    resolveModel({ model, loading: loading(changes) });
  test("of a folder is not looked up on the hub", async () => {
    await useHub();
    expect((await resolve(TINY_SD)).path).toBe(TINY_SD);
    expect((await resolve("models/emoji-64")).path).toMatch(/models[/\\]emoji-64$/);
    expect(hub.requests).toEqual([]);
  });

  test("with a misspelled folder is refused without the network, with the nearest folder", async () => {
    await useHub();
    await expect(resolve("models/emoji-65")).rejects.toThrow(
      inputError("model-not-found", { setting: "model", path: "models/emoji-65", suggestion: "models/emoji-64" }),
    );
    for (const path of ["./org/tiny-sd", "/org/tiny-sd", "org\\tiny-sd", "~/tiny-sd", "tiny-sd"]) {
      await expect(resolve(path).then(({ path }) => openPipeline(path))).rejects.toThrow(
        inputError("model-not-found", { path: expect.stringMatching(/tiny-sd$/) }),
      );
    }
    expect(hub.requests).toEqual([]);
  });

  test("may contain its revision, or the setting gives it", async () => {
    await useHub();
    await expect(resolve("org/tiny-sd@v1")).rejects.toThrow(inputError("hub-not-found", { revision: "v1" }));
    expect((await resolve("org/tiny-sd", { revision: "v1/beta" })).path).toMatch(/snapshots/);
    await expect(resolve("hf://org/tiny-sd", { revision: "v9" })).rejects.toThrow(
      inputError("hub-not-found", { revision: "v9" }),
    );
  });

  test("may be one file of a repository, with CLIP's tokenizer from the hub if there is none beside it", async () => {
    const server = await startHub("org/single");
    try {
      const cache = await useHub(server);
      server.files.set("v1.safetensors", await readFile(single("sd1")));
      await expect(resolve("org/single/v1.safetensors")).rejects.toThrow(
        inputError("model-incomplete", {
          path: expect.stringMatching(/v1\.safetensors$/),
          setting: "loading.tokenizer",
          reason: expect.stringContaining("openai/clip-vit-large-patch14"),
        }),
      );
      for (const [path, content] of await filesOf(join(TINY_SD, "tokenizer"))) {
        server.files.set(`tokenizer/${path}`, content);
      }
      const found = await resolve("org/single/v1.safetensors", { tokenizer: "org/single" });
      expect(found.path.startsWith(cache)).toBe(true);
      await expect(openPipeline(found.path, found)).rejects.toThrow(
        inputError("config-invalid", { keys: expect.arrayContaining(["norm_num_groups"]) }),
      );
    } finally {
      await server.close();
    }
  });

  test("that is not in the cache is refused without the network", async () => {
    await useHub();
    await expect(resolve("org/tiny-sd", { offline: true })).rejects.toThrow(
      inputError("hub-unreachable", { model: "org/tiny-sd", offline: true }),
    );
    expect(hub.requests).toEqual([]);
  });
});

test("the prediction type of a folder can be given", async () => {
  expect((await openPipeline(TINY_SD)).scheduler.prediction_type).toBe("epsilon");
  const pipeline = await openPipeline(TINY_SD, { prediction: "v_prediction" });
  expect(pipeline.scheduler.prediction_type).toBe("v_prediction");
});

describe("the published architectures", () => {
  /** Tensors of these shapes without elements, except for one that is transposed when the file is opened. */
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

  test.each(["sd1", "sd2", "sdxl"])("of %s build all their graphs on the tensors of a single file", async (name) => {
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

test("the command line downloads a model, shows the progress, and writes only the result to stdout", async () => {
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

test("generate takes the settings that a single file needs, as every command does", async () => {
  const said: string[] = [];
  const terminal = { isTTY: false, print: () => {}, say: (line: string) => said.push(line), update: () => {} };
  const imageWith = async (...options: string[]) => {
    const out = join(root, `set-${said.length}-${options.length}.png`);
    const size = ["--set", "sampling.height=32", "--set", "sampling.width=32"];
    const code = await runCommandLine(
      ["generate", "--prompt", "cat", "--steps", "2", ...size, ...options, "--out", out],
      terminal,
    );
    expect([code, said]).toEqual([0, []]);
    return readFile(out);
  };
  const file = await imageWith("--model", single("sd1"), "--set", `loading.config=${TINY_SD}`);
  expect(file.equals(await imageWith("--model", TINY_SD))).toBe(true);
});

test("the content of a checkpoint decides its format, and not its name", async () => {
  const path = join(root, "sd1.ckpt");
  await cp(single("sd1"), path);
  expect(await imageOf(path, { config: TINY_SD })).toEqual(await imageOf(TINY_SD));
  await writeFile(path, "not a checkpoint at all");
  await expect(imageOf(path, { config: TINY_SD })).rejects.toThrow(inputError("file-malformed", { path }));
});
