import { mkdtemp, readdir, readFile, rm, symlink, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { type ErrorCode, type ErrorFacts, InputError } from "../errors/index.js";
import { fromNumbers, type HostTensor, toNumbers } from "../tensor/host.js";
import { openSafetensors, writeSafetensors } from "./safetensors.js";
import { readTensor } from "./source.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "alignprop-safetensors-"));
});
afterAll(() => rm(folder, { recursive: true }));

/** A file with this header, valid or not, and so many bytes of data. */
function fileOf(header: string | object, dataBytes: number, headerLength?: number | bigint): Buffer {
  const json = Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(headerLength ?? json.length));
  return Buffer.concat([length, json, Buffer.alloc(dataBytes, 1)]);
}

async function opening(bytes: Buffer): Promise<unknown> {
  const path = join(folder, "hostile.safetensors");
  await writeFile(path, bytes);
  return openSafetensors(path).catch((error) => error);
}

async function expectRefused(bytes: Buffer, facts: ErrorFacts, code: ErrorCode = "file-malformed"): Promise<void> {
  const path = join(folder, "hostile.safetensors");
  const error = await opening(bytes);
  expect(error).toEqual(inputError(code, { path, ...facts }));
  expect((error as Error).message).toContain(path);
}

const pair = (begin: number, end: number) => ({ dtype: "F32", shape: [(end - begin) / 4], data_offsets: [begin, end] });

describe("a file that the safetensors library wrote", () => {
  // safetensors 0.8: half [[1.5, -2]] F16, brain [3] BF16, ids [7, -8] I64, scale 0.25 F32, flags [true, false, true] BOOL
  const bytes = Buffer.from(
    [
      "SAEAAAAAAAB7Il9fbWV0YWRhdGFfXyI6eyJmb3JtYXQiOiJwdCJ9LCJpZHMiOnsiZHR5cGUiOiJJNjQiLCJzaGFwZSI6WzJdLCJk",
      "YXRhX29mZnNldHMiOlswLDE2XX0sInNjYWxlIjp7ImR0eXBlIjoiRjMyIiwic2hhcGUiOltdLCJkYXRhX29mZnNldHMiOlsxNiwy",
      "MF19LCJicmFpbiI6eyJkdHlwZSI6IkJGMTYiLCJzaGFwZSI6WzFdLCJkYXRhX29mZnNldHMiOlsyMCwyMl19LCJoYWxmIjp7ImR0",
      "eXBlIjoiRjE2Iiwic2hhcGUiOlsxLDJdLCJkYXRhX29mZnNldHMiOlsyMiwyNl19LCJmbGFncyI6eyJkdHlwZSI6IkJPT0wiLCJz",
      "aGFwZSI6WzNdLCJkYXRhX29mZnNldHMiOlsyNiwyOV19fSAgBwAAAAAAAAD4/////////wAAgD5AQAA+AMABAAE=",
    ].join(""),
    "base64",
  );

  test("gives back every dtype, shape and value", async () => {
    const path = join(folder, "golden.safetensors");
    await writeFile(path, bytes);
    const file = await openSafetensors(path);
    const read = async (name: string) => {
      const stored = file.get(name);
      if (!stored) throw new Error(`no tensor ${name}`);
      const tensor = await readTensor(stored);
      return [tensor.dtype, tensor.shape, [...toNumbers(tensor)]];
    };
    expect(await read("half")).toEqual(["float16", [1, 2], [1.5, -2]]);
    expect(await read("brain")).toEqual(["bfloat16", [1], [3]]);
    expect(await read("ids")).toEqual(["int64", [2], [7, -8]]);
    expect(await read("scale")).toEqual(["float32", [], [0.25]]);
    expect(await read("flags")).toEqual(["bool", [3], [1, 0, 1]]);
    expect(file.metadata).toEqual({ format: "pt" });
    expect([...file.names()].sort()).toEqual(["brain", "flags", "half", "ids", "scale"]);
  });
});

describe("writing", () => {
  const tensors = new Map<string, HostTensor>([
    ["conv.weight", fromNumbers([1, 2, 3, 4, 5, 6], [2, 3])],
    ["conv.half", fromNumbers([0.5, -0.5, 2], [3], "float16")],
    ["steps", fromNumbers([981, 1], [2], "int64")],
    ["empty", fromNumbers([], [0, 4])],
    ["__proto__", fromNumbers([9], [1], "uint8")],
  ]);

  test("then reading gives the same tensors, aligned to their type", async () => {
    const path = join(folder, "written.safetensors");
    await writeSafetensors(path, tensors, { format: "pt" });
    const file = await openSafetensors(path);
    for (const [name, tensor] of tensors) {
      const stored = file.get(name);
      if (stored?.kind !== "file") throw new Error(`no tensor ${name} in the file`);
      expect(await readTensor(stored)).toEqual(tensor);
      expect(stored.offset % tensor.data.BYTES_PER_ELEMENT).toBe(0);
    }
    expect(file.metadata).toEqual({ format: "pt" });
  });

  test("gives the same bytes whatever the order of the tensors", async () => {
    const [one, other] = [join(folder, "one"), join(folder, "other")];
    await writeSafetensors(one, tensors);
    await writeSafetensors(other, new Map([...tensors].reverse()));
    expect(await readFile(other)).toEqual(await readFile(one));
  });

  test("leaves no temporary file beside the target", async () => {
    const own = await mkdtemp(join(folder, "alone-"));
    await writeSafetensors(join(own, "weights.safetensors"), tensors);
    expect(await readdir(own)).toEqual(["weights.safetensors"]);
  });

  test("into a folder that does not exist is an InputError", async () => {
    const path = join(folder, "nowhere", "weights.safetensors");
    const error = await writeSafetensors(path, tensors).catch((caught) => caught);
    expect(error).toBeInstanceOf(InputError);
    expect(error.message).toContain(path);
  });
});

describe("a file that is refused", () => {
  test("a path that is missing or a folder", async () => {
    await expect(openSafetensors(join(folder, "missing"))).rejects.toThrow(InputError);
    await expect(openSafetensors(folder)).rejects.toThrow(InputError);
  });

  test("too few bytes for a header's length", () => expectRefused(Buffer.from("abc"), { found: 3, expected: 8 }));

  test("a Git LFS pointer", () =>
    expectRefused(Buffer.from("version https://git-lfs.github.com/spec/v1\noid sha256:00\n"), {
      found: "Git LFS pointer",
    }));

  test("a header length beyond the format's bound", () =>
    expectRefused(fileOf("{}", 0, 2n ** 64n - 1n), { found: 2 ** 64, expected: 100_000_000 }));

  test("a header longer than the file", () => expectRefused(fileOf("{}", 0, 100), { missing: 98, expected: 100 }));

  test("a header that is not UTF-8, not JSON, or not an object", async () => {
    const json = fileOf('{"a":1}', 0);
    json[9] = 0xff;
    expect(await opening(json)).toBeInstanceOf(InputError);
    expect(await opening(fileOf('{"a":', 0))).toBeInstanceOf(InputError);
    await expectRefused(fileOf("[]", 0), { expected: "a JSON object" });
    await expectRefused(fileOf("null", 0), { expected: "a JSON object" });
  });

  test("truncated data, with the number of missing bytes and the lost tensors", async () => {
    const path = join(folder, "hostile.safetensors");
    const tensors = new Map([
      ["a", fromNumbers([1, 2, 3], [3])],
      ["b", fromNumbers([4, 5], [2])],
    ]);
    await writeSafetensors(path, tensors);
    const whole = await readFile(path);
    await truncate(path, whole.length - 10);
    await expect(openSafetensors(path)).rejects.toThrow(
      inputError("file-malformed", { path, missing: 10, tensor: "a", incomplete: 2, total: 2 }),
    );
  });

  test("overlapping tensors, named", () =>
    expectRefused(fileOf({ a: pair(0, 8), b: pair(4, 12) }, 12), { tensors: ["a", "b"], overlap: 4 }));

  test("a tensor inside another", () =>
    expectRefused(fileOf({ small: pair(4, 8), large: pair(0, 16) }, 16), { tensors: ["large", "small"], overlap: 4 }));

  test("sizes that differ from shape and dtype", () =>
    expectRefused(fileOf({ a: { dtype: "F16", shape: [2, 3], data_offsets: [0, 24] } }, 24), {
      tensor: "a",
      dtype: "F16",
      shape: [2, 3],
      expected: 12,
      found: 24,
    }));

  test("an unknown dtype, naming the known ones", () =>
    expectRefused(
      fileOf({ a: { dtype: "F8_E4M3", shape: [1], data_offsets: [0, 1] } }, 1),
      { tensor: "a", found: '"F8_E4M3"', expected: expect.arrayContaining(["F64", "F32"]) },
      "file-unsupported",
    ));

  test.each([
    ["negative", [-1]],
    ["fractional", [1.5]],
    ["beyond 2^53", [2 ** 60]],
    ["of strings", ["1"]],
    ["that is not a list", 4],
    ["of absurd rank", new Array(17).fill(1)],
  ])("a shape %s", (_, shape) =>
    expectRefused(fileOf({ a: { dtype: "F32", shape, data_offsets: [0, 4] } }, 4), {
      tensor: "a",
      key: "shape",
      found: JSON.stringify(shape),
    }),
  );

  test("extents whose product overflows", () => {
    const shape = new Array(16).fill(2 ** 50);
    return expectRefused(fileOf({ a: { dtype: "F32", shape, data_offsets: [0, 4] } }, 4), {
      tensor: "a",
      expected: 2 ** 802,
      found: 4,
    });
  });

  test.each([
    ["reversed", [8, 4], { found: -4, expected: 4 }],
    ["negative", [-4, 0], { key: "data_offsets", found: "[-4,0]" }],
    ["three", [0, 4, 8], { key: "data_offsets", found: "[0,4,8]" }],
    ["missing", undefined, { key: "data_offsets", found: "nothing" }],
  ])("offsets that are %s", (_, data_offsets, facts) =>
    expectRefused(fileOf({ a: { dtype: "F32", shape: [1], data_offsets } }, 8), { tensor: "a", ...facts }),
  );

  test("an entry that is not an object", () => expectRefused(fileOf({ a: null }, 0), { tensor: "a", found: "null" }));

  test("metadata that is not a string", () =>
    expectRefused(fileOf({ __metadata__: { epoch: 3 } }, 0), { key: "__metadata__", found: '{"epoch":3}' }));

  test("the same name twice, even if escapes and spaces differ", () => {
    const entry = JSON.stringify(pair(0, 4));
    return expectRefused(fileOf(`{ "a" : ${entry} , "\\u0061"\n: ${entry} }`, 4), { tensor: "a" });
  });

  test("a name with control characters, which the message escapes", async () => {
    const error = (await opening(fileOf({ "\u001b[2J": {} }, 0))) as Error;
    expect(error.message).toContain('"\\u001b[2J"');
    expect(error.message).not.toContain("\u001b");
  });
});

describe("a file that is unusual but valid", () => {
  test("gaps between tensors, bytes after the last, and tensors without elements", async () => {
    const path = join(folder, "gaps.safetensors");
    const none = { dtype: "F32", shape: [0], data_offsets: [4, 4] };
    await writeFile(path, fileOf({ a: pair(0, 8), none, b: pair(16, 20) }, 32));
    const file = await openSafetensors(path);
    expect(file.get("none")?.shape).toEqual([0]);
    expect(file.get("b")).toMatchObject({ kind: "file", length: 4 });
  });

  test("names that objects inherit are ordinary names", async () => {
    const path = join(folder, "proto.safetensors");
    await writeFile(path, fileOf(`{"__proto__":${JSON.stringify(pair(0, 4))}}`, 4));
    const file = await openSafetensors(path);
    expect([...file.names()]).toEqual(["__proto__"]);
    expect(file.get("constructor")).toBeUndefined();
    expect(file.metadata).toEqual({});
  });

  test.skipIf(process.platform === "win32")(
    "a symbolic link is resolved, as ONNX Runtime needs the real path",
    async () => {
      const real = join(folder, "blob");
      await writeFile(real, fileOf({ a: pair(0, 4) }, 4));
      const link = join(folder, "link.safetensors");
      await symlink(real, link);
      expect((await openSafetensors(link)).get("a")).toMatchObject({ path: (await openSafetensors(real)).path });
    },
  );
});

test("a file that shrinks after it was opened is an InputError when a tensor is read", async () => {
  const path = join(folder, "shrinking.safetensors");
  await writeFile(path, fileOf({ a: pair(0, 40) }, 40));
  const stored = (await openSafetensors(path)).get("a");
  if (!stored) throw new Error("no tensor a");
  await truncate(path, 60);
  await expect(readTensor(stored)).rejects.toThrow(InputError);
});
