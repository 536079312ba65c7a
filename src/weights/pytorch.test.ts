import { existsSync } from "node:fs";
import { mkdtemp, readdir, readFile, realpath, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { deflateRawSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { dict, int, pickle, tensor, text, torchZip, tuple, type View, zip } from "../../test/torch-file.js";
import { type ErrorCode, type ErrorFacts, InputError } from "../errors/index.js";
import { toNumbers } from "../tensor/host.js";
import { openPytorch } from "./pytorch.js";
import { openSafetensors } from "./safetensors.js";
import { readTensor, type WeightSource } from "./source.js";

const GOLDEN = fileURLToPath(new URL("../../test/goldens/pytorch/", import.meta.url));

let folder: string;
beforeAll(async () => {
  folder = await realpath(await mkdtemp(join(tmpdir(), "alignprop-pytorch-")));
});
afterAll(() => rm(folder, { recursive: true }));

async function write(bytes: Uint8Array, name = "file.pt"): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, bytes);
  return path;
}

async function elements(source: WeightSource): Promise<Record<string, unknown>> {
  const read: Record<string, unknown> = {};
  for (const name of [...source.names()].sort()) {
    const stored = source.get(name);
    if (!stored) throw new Error(`${name} has a name but no tensor`);
    const { dtype, shape, data } = await readTensor(stored);
    read[name] = { dtype, shape, data };
  }
  return read;
}

/** The file must be refused with these facts. */
async function expectRefused(bytes: Uint8Array, facts: ErrorFacts, code: ErrorCode = "file-malformed"): Promise<void> {
  const path = await write(bytes);
  await expect(openPytorch(path)).rejects.toThrow(inputError(code, { path, ...facts }));
}

describe("what PyTorch wrote", () => {
  test.each(["state_dict.pt", "legacy.pt", "protocol-5.pt", "training.ckpt"])(
    "as %s has the names, types, shapes and elements that PyTorch has",
    async (name) => {
      const file = await openPytorch(join(GOLDEN, name));
      expect(await elements(file)).toEqual(await elements(await openSafetensors(join(GOLDEN, "expected.safetensors"))));
    },
  );

  test("stays in the file, except for tensors that are not contiguous", async () => {
    for (const name of ["state_dict.pt", "legacy.pt"]) {
      const file = await openPytorch(join(GOLDEN, name));
      const moved = [...file.names()].filter((tensor) => file.get(tensor)?.kind === "memory").sort();
      expect(moved).toEqual([
        "channels_last",
        "empty",
        "views.corner",
        "views.every_other",
        "views.repeated",
        "views.transposed",
      ]);
    }
  });

  test("compressed is unpacked to memory", async () => {
    const packed = await openPytorch(join(GOLDEN, "compressed.pth"));
    expect(packed.get("weight")?.kind).toBe("memory");
    expect(await elements(packed)).toEqual(await elements(await openPytorch(join(GOLDEN, "tiny.pth"))));
  });

  test("truncated anywhere is refused", async () => {
    for (const name of ["tiny.pth", "legacy.pt"]) {
      const whole = await readFile(join(GOLDEN, name));
      for (let length = 0; length < whole.length; length += 7) {
        await expectRefused(whole.subarray(0, length), {});
      }
    }
  });
});

const HEAD =
  process.env.ALIGNPROP_AESTHETIC_HEAD ??
  fileURLToPath(new URL("../../../shared/data/sac+logos+ava1-l14-linearMSE.pth", import.meta.url));

test.skipIf(!existsSync(HEAD))(
  "the published aesthetic head is five Linear layers (skipped where ../shared/data does not hold it)",
  async () => {
    const file = await openPytorch(HEAD);
    const shapes = [...file.names()].map((name) => [name, file.get(name)?.kind, file.get(name)?.shape.join("x")]);
    const widths = [768, 1024, 128, 64, 16, 1];
    expect(shapes).toEqual(
      [0, 2, 4, 6, 7].flatMap((layer, i) => [
        [`layers.${layer}.weight`, "file", `${widths[i + 1]}x${widths[i]}`],
        [`layers.${layer}.bias`, "file", `${widths[i + 1]}`],
      ]),
    );
    const bias = file.get("layers.7.bias");
    if (!bias) throw new Error("no last bias");
    const [value] = toNumbers(await readTensor(bias));
    // As torch.load gives it.
    expect(value).toBeCloseTo(0.9899932146072388, 7);
  },
);

describe("names are found", () => {
  const one = tensor({ elements: 1, shape: [1], strides: [1] });
  const storages = { 0: new Uint8Array(4) };
  const namesOf = async (data: Uint8Array) => [...(await openPytorch(await write(torchZip(data, storages)))).names()];

  test("at the top level, beside other values", async () => {
    expect(await namesOf(pickle(dict({ step: int(3), weight: one, nested: dict({ deep: one }) })))).toEqual(["weight"]);
  });

  test("under state_dict rather than at the top level", async () => {
    expect(await namesOf(pickle(dict({ best: one, state_dict: dict({ weight: one }) })))).toEqual(["weight"]);
  });

  test("even where objects inherit them", async () => {
    expect(await namesOf(pickle(dict({ __proto__x: one, constructor: one })))).toEqual(["__proto__x", "constructor"]);
    expect(
      (await openPytorch(await write(torchZip(pickle(dict({ a: one })), storages)))).get("toString"),
    ).toBeUndefined();
  });

  test.each<[string, Uint8Array, string[]]>([
    ["nothing", pickle("N"), []],
    ["a lone tensor", pickle(one), []],
    ["a dict that is nested deeper", pickle(dict({ model: dict({ weight: one }) })), ["model"]],
  ])("nowhere in %s", (_, data, found) => expectRefused(torchZip(data, storages), { found }, "tensor-missing"));
});

describe("a view of a storage", () => {
  const view = (view: Partial<View>, storage = new Uint8Array(24)) =>
    torchZip(pickle(dict({ weight: tensor({ elements: 6, shape: [2, 3], strides: [3, 1], ...view }) })), {
      0: storage,
    });
  const HUGE = 2 ** 52;
  /** The facts about a view that are given; the others are those of the default view. */
  const shapeAndStrides = ({ shape = [2, 3], strides = [3, 1], offset = 0 }: Partial<View>) => ({
    shape,
    strides,
    offset,
  });

  test.each<[string, Partial<View>]>([
    ["from an offset", { offset: 1 }],
    ["from an offset near 2^53", { offset: Number.MAX_SAFE_INTEGER }],
    ["with too many elements", { shape: [3, 3] }],
    ["with a stride too long", { strides: [4, 1] }],
    ["with extents whose product overflows", { shape: [HUGE, HUGE], strides: [0, 1] }],
    ["with strides whose product overflows", { shape: [HUGE, HUGE], strides: [HUGE, HUGE] }],
    ["of more elements than the storage says", { elements: 5 }],
  ])("%s that leads out of it is refused", (_, outside) =>
    expectRefused(view(outside), { tensor: "weight", dtype: "float32", expected: 24, ...shapeAndStrides(outside) }),
  );

  test("beyond the end of a storage that is shorter than it says is refused", () =>
    expectRefused(view({}, new Uint8Array(23)), { tensor: "weight", dtype: "float32", expected: 23 }));

  test("that repeats one element until the memory is full is refused", () =>
    expectRefused(
      view({ shape: [2 ** 20, 2 ** 20], strides: [0, 0] }),
      { tensor: "weight", expected: 268435456 },
      "file-too-large",
    ));

  test("is refused if many of them fill the memory together", () => {
    const large = tensor({ elements: 6, shape: [2 ** 24], strides: [0] });
    const several = dict(Object.fromEntries(Array.from({ length: 5 }, (_, i) => [`weight${i}`, large])));
    const file = torchZip(pickle(several), { 0: new Uint8Array(24) });
    return expectRefused(file, { tensor: "weight4", expected: 268435456 }, "file-too-large");
  });

  test.each<[string, Partial<View>, ErrorFacts]>([
    ["negative extents", { shape: [-2, 3] }, { key: "shape" }],
    ["negative strides", { strides: [-3, 1] }, { key: "strides" }],
    ["a negative offset", { offset: -1 }, { key: "offset" }],
    ["more extents than strides", { shape: [2, 3, 1] }, { key: "strides", expected: 3, found: 2 }],
    ["too many axes", { shape: new Array(17).fill(1), strides: new Array(17).fill(1) }, { key: "shape", expected: 16 }],
    ["a negative size", { elements: -6 }, { expected: "storage" }],
  ])("with %s is refused", (_, odd, facts) => expectRefused(view(odd), facts));

  test("of a type that is not supported is refused, but ignored if nothing needs it", async () => {
    const short = tensor({ key: "1", storageClass: "ShortStorage", elements: 2, shape: [2], strides: [1] });
    const weight = tensor({ elements: 1, shape: [1], strides: [1] });
    const storages = { 0: new Uint8Array(4), 1: new Uint8Array(4) };
    await expectRefused(
      torchZip(pickle(dict({ steps: short })), storages),
      { tensor: "steps", found: "ShortStorage", expected: ["float16", "float32"] },
      "file-unsupported",
    );
    const beside = torchZip(pickle(dict({ state_dict: dict({ weight }), steps: short })), storages);
    expect([...(await openPytorch(await write(beside))).names()]).toEqual(["weight"]);
  });

  test("whose storage is missing is refused, and no path leads to another file", () =>
    expectRefused(view({ key: "../../etc/passwd" }), { tensor: "weight", storage: "../../etc/passwd" }));
});

describe("a file that would run something", () => {
  const canary = () => join(folder, "canary");
  const command = () => text(`touch ${canary()}`);

  test.each([
    "posix.system",
    "nt.system",
    "os.system",
    "subprocess.Popen",
    "builtins.eval",
    "builtins.exec",
    "builtins.getattr",
    "runpy._run_code",
    "torch.load",
    "torch.hub.load",
    "torch.jit._script.RecursiveScriptModule",
  ])("with %s is refused by that name, in either layout", async (name) => {
    const dot = name.lastIndexOf(".");
    const call = ["c", `${name.slice(0, dot)}\n${name.slice(dot + 1)}\n`, tuple(command()), "R"];
    const weight = tensor({ elements: 1, shape: [1], strides: [1] });
    const beside = pickle("}(", text("weight"), weight, text("payload"), ...call, "u");
    await expectRefused(torchZip(beside, { 0: new Uint8Array(4) }), { name }, "file-unsupported");
    await expectRefused(pickle(...call), { name }, "file-unsupported");
    expect(await readdir(folder)).not.toContain("canary");
  });

  test("through the arguments of a maker is refused", async () => {
    const rebuild = (maker: string, ...args: Buffer[]) => pickle(`c${maker}\n`, tuple(...args), "R");
    await expectRefused(torchZip(rebuild("torch._utils\n_rebuild_tensor_v2", command())), {
      expected: "storage",
      found: "str",
    });
    await expectRefused(torchZip(rebuild("torch._utils\n_rebuild_parameter", command())), {
      expected: "tensor",
      found: "str",
    });
    await expectRefused(torchZip(rebuild("collections\nOrderedDict", command())), { expected: "list", found: "str" });
    await expectRefused(torchZip(rebuild("_codecs\nencode", command(), text("rot13"))), {
      expected: "latin1",
      found: "rot13",
    });
    await expectRefused(torchZip(pickle(tuple(text("module"), command()), "Q")), { expected: "storage" });
  });

  test("again and again on one large value is charged each time", async () => {
    const large = [text("x".repeat(10_000)), "q\x01", text("latin1"), "q\x020"];
    const again = "c_codecs\nencode\nh\x01h\x02\x86R0".repeat(200);
    await expectRefused(torchZip(pickle(...large, again, "N")), { expected: 1_000_000 });
  });
});

describe("a zip", () => {
  const data = pickle(dict({ weight: tensor({ elements: 1, shape: [1], strides: [1] }) }));
  const entry = { name: "archive/data.pkl", content: data };

  test("that unpacks to more than it says is refused without unpacking it", async () => {
    const zeros = deflateRawSync(Buffer.alloc(2 ** 24));
    const bomb = { name: "archive/data/0", content: zeros, method: 8, size: 4 };
    await expectRefused(zip([entry, bomb]), { entry: "archive/data/0", expected: 4 });
  });

  test("that says it unpacks to gigabytes is refused before they are allocated", async () => {
    const packed = {
      name: "archive/data/0",
      content: deflateRawSync(Buffer.alloc(2 ** 20)),
      method: 8,
      size: 2 ** 32 - 2,
    };
    await expectRefused(zip([entry, packed]), { tensor: "weight", expected: 268435456 }, "file-too-large");
    await expectRefused(
      zip([{ ...packed, name: "archive/data.pkl" }]),
      { entry: "archive/data.pkl", found: 4294967294, expected: 33554432 },
      "file-too-large",
    );
  });

  test("that unpacks to less than it says, or to nonsense, is refused", async () => {
    const four = deflateRawSync(Buffer.alloc(4));
    const packed = { name: "archive/data/0", content: four, method: 8, size: 8 };
    await expectRefused(zip([entry, packed]), { entry: "archive/data/0", found: 4, expected: 8 });
    await expectRefused(zip([entry, { ...packed, content: Buffer.alloc(9, 0xff) }]), {
      entry: "archive/data/0",
      found: undefined,
      expected: 8,
    });
  });

  test("with two entries of one name is refused, because readers differ in which they take", () =>
    expectRefused(zip([entry, entry]), { entry: "archive/data.pkl" }));

  test("compressed by an unusual method is refused", () =>
    expectRefused(
      zip([{ ...entry, method: 14, size: data.length }]),
      { entry: "archive/data.pkl", method: 14 },
      "file-unsupported",
    ));

  test.each<[string, string, ErrorFacts]>([
    ["without data.pkl", "archive/model.json", { missing: "data.pkl" }],
    ["with paths that lead out", "../data.pkl", { reason: expect.stringContaining("../data.pkl") }],
    ["with absolute paths", "/etc/data.pkl", { reason: expect.stringContaining("/etc/data.pkl") }],
  ])("%s is refused", (_, name, facts) => expectRefused(zip([{ name, content: data }]), facts));

  test("whose end points far outside the file is refused", async () => {
    const whole = zip([entry]);
    const locator = Buffer.alloc(20, 0xff);
    locator.write("PK\x06\x07", "latin1");
    const zip64 = Buffer.concat([whole.subarray(0, -22), locator, whole.subarray(-22)]);
    await expectRefused(zip64, { reason: expect.any(String) });
  });

  test("of TorchScript, or from a big-endian machine, is refused", async () => {
    const script = { name: "archive/constants.pkl", content: Buffer.alloc(1) };
    await expectRefused(zip([entry, script]), { found: "TorchScript" }, "file-unsupported");
    const order = { name: "archive/byteorder", content: Buffer.from("big") };
    await expectRefused(zip([entry, order]), { found: "big-endian" }, "file-unsupported");
  });
});

describe("a file of another kind is refused", () => {
  test.each<[string, string, ErrorFacts]>([
    ["a Git LFS pointer", "version https://git-lfs.github.com/spec/v1\n", { found: "Git LFS pointer" }],
    ["a web page", "<!DOCTYPE html><html></html>", { found: "web page" }],
    ["an empty file", "", { found: 0 }],
    ["text", "These are not the weights you are looking for.", { offset: expect.any(Number) }],
  ])("%s", (_, content, facts) => expectRefused(Buffer.from(content), facts));

  test("another pickle", () => expectRefused(pickle(dict({ lr: int(3) })), { found: "pickle" }));

  test("a missing file", async () => {
    const path = join(folder, "none.pt");
    const error = await openPytorch(path).catch((caught) => caught);
    expect(error).toBeInstanceOf(InputError);
    expect(error.message).toContain(path);
  });
});
