import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inputError } from "../../../test/errors.js";
import { startHub } from "../../../test/hub-server.js";
import { toNumbers } from "../../tensor/host.js";
import { product } from "../../tensor/matrix.js";
import { type Adapter, type LoraModule, loraScale } from "../../weights/lora-files.js";
import { readLora } from "../../weights/read-adapter.js";
import { adapterChoice, openAllTuned, openTuned } from "./tuned.js";

const GOLDENS = fileURLToPath(new URL("../../../test/goldens/adapters", import.meta.url));
const golden = (name: string) => join(GOLDENS, name);

let root: string;
const environment = { ...process.env };
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "alignprop-tuned-"));
});
afterAll(async () => {
  process.env = { ...environment };
  await rm(root, { recursive: true });
});

/** ΔW of a module. */
function change(adapter: Adapter, path: string): Float64Array {
  const module = adapter.get(path) as LoraModule;
  const [rows = 0, rank = 0] = module.up.shape;
  const { data } = product(
    { rows, columns: rank, data: toNumbers(module.up) },
    { rows: rank, columns: module.down.data.length / rank, data: toNumbers(module.down) },
  );
  return data.map((value) => value * loraScale(module));
}

describe("an adapter on the command line", () => {
  test.each([
    ["runs/mine-1", { path: "runs/mine-1", weight: 1 }],
    ["style.safetensors:0.7", { path: "style.safetensors", weight: 0.7 }],
    ["style.safetensors:-1", { path: "style.safetensors", weight: -1 }],
    ["org/name@main:.5", { path: "org/name@main", weight: 0.5 }],
    ["C:\\loras\\style.safetensors", { path: "C:\\loras\\style.safetensors", weight: 1 }],
    ["style:v2", { path: "style:v2", weight: 1 }],
  ])("%s", (text, choice) => expect(adapterChoice(text)).toEqual(choice));

  test("whose own name ends in a number is not cut", async () => {
    const path = join(root, "style:2");
    await writeFile(path, "");
    expect(adapterChoice(path)).toEqual({ path, weight: 1 });
  });
});

test("several adapters are the sum of their changes, each times its weight", async () => {
  const [a, b] = [await readLora(golden("kohya")), await readLora(golden("state-dict"))];
  const tuned = await openAllTuned([
    { path: golden("kohya"), weight: 0.7 },
    { path: golden("state-dict"), weight: -0.5 },
  ]);
  const sum = (tuned as { adapter: Adapter }).adapter;
  expect([...sum.keys()].sort()).toEqual([...new Set([...a.keys(), ...b.keys()])].sort());
  for (const path of sum.keys()) {
    const [first, second] = [a, b].map((adapter) => (adapter.has(path) ? change(adapter, path) : undefined));
    for (const [i, found] of change(sum, path).entries()) {
      expect(found).toBeCloseTo(0.7 * (first?.[i] ?? 0) - 0.5 * (second?.[i] ?? 0), 6);
    }
  }
});

test("a misspelled run is not searched on the hub, and the nearest name beside it is suggested", async () => {
  const before = process.cwd();
  await mkdir(join(root, "runs/mine-1"), { recursive: true });
  process.chdir(root);
  try {
    await expect(openTuned("runs/mien-1")).rejects.toThrow(
      inputError("file-not-found", { setting: "--adapter", path: "runs/mien-1", suggestion: "runs/mine-1" }),
    );
  } finally {
    process.chdir(before);
  }
});

test("a path that looks like a hub id but ends like a file is not searched on the hub", async () => {
  Object.assign(process.env, { HF_ENDPOINT: "http://127.0.0.1:9", HF_HUB_CACHE: join(root, "cache-0") });
  await expect(openTuned("nowhere-here/style.safetensors")).rejects.toThrow(inputError("file-not-found"));
});

describe("an adapter on the hub", () => {
  test("is downloaded by its id: the file that PEFT or diffusers would load, with its config", async () => {
    const hub = await startHub("org/style");
    for (const name of ["adapter_model.safetensors", "adapter_config.json"]) {
      hub.files.set(name, await readFile(join(golden("peft"), name)));
    }
    hub.files.set("README.md", Buffer.from("# style"));
    Object.assign(process.env, { HF_ENDPOINT: hub.endpoint, HF_HUB_CACHE: join(root, "cache-1") });
    try {
      expect(await openTuned("org/style")).toEqual({ adapter: await readLora(golden("peft")) });
      expect(hub.requests.filter(({ line }) => /README/.test(line))).toEqual([]);
    } finally {
      await hub.close();
    }
  });

  test("with several files asks for one of them, which its path names", async () => {
    const hub = await startHub("org/styles");
    const content = await readFile(join(golden("kohya"), "pytorch_lora_weights.safetensors"));
    for (const name of ["a.safetensors", "b.safetensors"]) hub.files.set(name, content);
    Object.assign(process.env, { HF_ENDPOINT: hub.endpoint, HF_HUB_CACHE: join(root, "cache-2") });
    try {
      await expect(openTuned("org/styles")).rejects.toThrow(
        inputError("adapter-unsupported", {
          found: ["a.safetensors", "b.safetensors"],
          suggestion: "org/styles/a.safetensors",
        }),
      );
      expect(await openTuned("org/styles/b.safetensors")).toEqual({ adapter: await readLora(golden("kohya")) });
    } finally {
      await hub.close();
    }
  });
});
