import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeEach, describe, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { dict, pickle, tensor, torchZip } from "../../test/torch-file.js";
import { type ErrorCode, type ErrorFacts, InputError } from "../errors/index.js";
import { fromNumbers } from "../tensor/host.js";
import { writeSafetensors } from "./safetensors.js";
import { readTensor } from "./source.js";
import { openShards, openWeightFile } from "./weight-file.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-shards-"));
afterAll(() => rm(scratch, { recursive: true }));

let folder: string;
let made = 0;
beforeEach(async () => {
  folder = join(scratch, String(made++));
  await mkdir(folder);
});

const one = (name: string, value: number) => new Map([[name, fromNumbers([value], [1])]]);

const indexPath = () => join(folder, "model.safetensors.index.json");

async function open(weight_map: Record<string, unknown>) {
  await writeFile(indexPath(), JSON.stringify({ metadata: { total_size: 8 }, weight_map }));
  return openShards(indexPath());
}

/** The index must be refused with these facts. */
async function expectRefused(weight_map: Record<string, unknown>, code: ErrorCode, facts: ErrorFacts): Promise<void> {
  await expect(open(weight_map)).rejects.toThrow(inputError(code, { path: indexPath(), ...facts }));
}

describe("weights in several files", () => {
  test("are one source, each tensor in its own file, whatever its format", async () => {
    await writeSafetensors(join(folder, "a.safetensors"), one("first", 1));
    const pickled = pickle(dict({ second: tensor({ elements: 1, shape: [1], strides: [1] }) }));
    await writeFile(join(folder, "b.bin"), torchZip(pickled, { 0: new Uint8Array(new Float32Array([2]).buffer) }));
    const weights = await open({ first: "a.safetensors", second: "b.bin" });
    expect([...weights.names()]).toEqual(["first", "second"]);
    for (const [name, value] of Object.entries({ first: 1, second: 2 })) {
      const stored = weights.get(name);
      if (!stored) throw new Error(`no tensor ${name}`);
      expect([...(await readTensor(stored)).data]).toEqual([value]);
    }
    expect(weights.get("third")).toBeUndefined();
  });

  test("hold only what the index lists", async () => {
    await writeSafetensors(join(folder, "a.safetensors"), new Map([...one("listed", 1), ...one("unlisted", 2)]));
    const weights = await open({ listed: "a.safetensors" });
    expect([[...weights.names()], weights.get("unlisted")]).toEqual([["listed"], undefined]);
  });

  test.skipIf(process.platform === "win32")("may be links, as in the Hugging Face cache", async () => {
    await writeSafetensors(join(scratch, "blob"), one("first", 1));
    await symlink(join(scratch, "blob"), join(folder, "a.safetensors"));
    expect((await open({ first: "a.safetensors" })).get("first")).toMatchObject({ kind: "file" });
  });

  test.each(["../a.safetensors", "/etc/passwd", "sub/a.safetensors", "..", ".hidden", "a\\b", "C:a", "", "a\u0000"])(
    "of which one is called %j are refused",
    (name) => expectRefused({ first: name }, "path-unsafe", { found: name }),
  );

  test("of which one is missing, or lacks a tensor, say which", async () => {
    await writeSafetensors(join(folder, "a.safetensors"), one("unet.conv_in.weight", 1));
    const missing = await open({ "unet.conv_in.weight": "b.safetensors" }).catch((error) => error);
    expect(missing).toBeInstanceOf(InputError);
    expect(missing.message).toContain(join(folder, "b.safetensors"));
    await expectRefused({ "unet.conv_in.weigth": "a.safetensors" }, "tensor-missing", {
      file: "a.safetensors",
      tensor: "unet.conv_in.weigth",
      suggestion: "unet.conv_in.weight",
    });
  });

  test("without tensors, in too many files, or with an index of another shape are refused", async () => {
    await expectRefused({}, "file-malformed", { key: "weight_map" });
    const many = Object.fromEntries(Array.from({ length: 1001 }, (_, i) => [`t${i}`, `${i}.safetensors`]));
    await expectRefused(many, "file-unsupported", { found: 1001, expected: 1000 });
    const otherShape = await open({ first: 3 }).catch((error) => error);
    expect(otherShape).toBeInstanceOf(InputError);
    expect(otherShape.message).toContain("weight_map.first");
  });
});

test("a file is known by what it holds, not by its name", async () => {
  await writeSafetensors(join(folder, "model.ckpt"), one("first", 1));
  expect([...(await openWeightFile(join(folder, "model.ckpt"))).names()]).toEqual(["first"]);
  const pickled = pickle(dict({ second: tensor({ elements: 1, shape: [1], strides: [1] }) }));
  await writeFile(join(folder, "model.safetensors"), torchZip(pickled, { 0: new Uint8Array(4) }));
  expect([...(await openWeightFile(join(folder, "model.safetensors"))).names()]).toEqual(["second"]);
  // A safetensors header of 0x280 bytes begins as a pickle of protocol 2 does.
  const header = Buffer.from('{"first":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'.padEnd(0x280));
  await writeFile(
    join(folder, "odd.safetensors"),
    Buffer.concat([Buffer.of(0x80, 2, 0, 0, 0, 0, 0, 0), header, Buffer.of(9)]),
  );
  expect([...(await openWeightFile(join(folder, "odd.safetensors"))).names()]).toEqual(["first"]);
});
