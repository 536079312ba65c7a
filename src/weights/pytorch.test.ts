import { existsSync } from "node:fs";
import { mkdtemp, readdir, readFile, realpath, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { deflateRawSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { dict, int, pickle, tensor, text, torchZip, tuple, type View, zip } from "../../test/torch-file.js";
import { InputError } from "../errors/index.js";
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

async function expectRefused(bytes: Uint8Array, message: RegExp | string): Promise<void> {
  const error = await openPytorch(await write(bytes)).catch((caught) => caught);
  expect(error).toBeInstanceOf(InputError);
  expect(error.message).toMatch(message);
  expect(error.message).toContain("file.pt: ");
}

describe("what PyTorch wrote", () => {
  test.each(["state_dict.pt", "legacy.pt", "protocol-5.pt", "training.ckpt"])(
    "as %s has the names, types, shapes and elements that PyTorch has",
    async (name) => {
      const file = await openPytorch(join(GOLDEN, name));
      expect(await elements(file)).toEqual(await elements(await openSafetensors(join(GOLDEN, "expected.safetensors"))));
    },
  );

  test("stays in the file, but for tensors whose elements do not lie there in a row", async () => {
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

  test("cut short anywhere is an InputError", async () => {
    for (const name of ["tiny.pth", "legacy.pt"]) {
      const whole = await readFile(join(GOLDEN, name));
      for (let length = 0; length < whole.length; length += 7) {
        await expectRefused(whole.subarray(0, length), /Fetch it again|not weights as torch\.save/);
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

  test("at the top, whatever else lies there", async () => {
    expect(await namesOf(pickle(dict({ step: int(3), weight: one, nested: dict({ deep: one }) })))).toEqual(["weight"]);
  });

  test("under state_dict before those at the top", async () => {
    expect(await namesOf(pickle(dict({ best: one, state_dict: dict({ weight: one }) })))).toEqual(["weight"]);
  });

  test("even where objects inherit them", async () => {
    expect(await namesOf(pickle(dict({ __proto__x: one, constructor: one })))).toEqual(["__proto__x", "constructor"]);
    expect(
      (await openPytorch(await write(torchZip(pickle(dict({ a: one })), storages)))).get("toString"),
    ).toBeUndefined();
  });

  test.each<[string, Uint8Array, RegExp]>([
    ["nothing", pickle("N"), /no named tensors.*its top is no dict/],
    ["a lone tensor", pickle(one), /no named tensors.*its top is no dict/],
    ["nested deeper", pickle(dict({ model: dict({ weight: one }) })), /no named tensors.*found: "model"/],
  ])("nowhere in %s", (_, data, message) => expectRefused(torchZip(data, storages), message));
});

describe("a view of a storage", () => {
  const view = (view: Partial<View>, storage = new Uint8Array(24)) =>
    torchZip(pickle(dict({ weight: tensor({ elements: 6, shape: [2, 3], strides: [3, 1], ...view }) })), {
      0: storage,
    });
  const HUGE = 2 ** 52;

  test.each<[string, Partial<View>]>([
    ["from an offset", { offset: 1 }],
    ["from an offset near 2^53", { offset: Number.MAX_SAFE_INTEGER }],
    ["with too many elements", { shape: [3, 3] }],
    ["with a stride too long", { strides: [4, 1] }],
    ["with extents whose product overflows", { shape: [HUGE, HUGE], strides: [0, 1] }],
    ["with strides whose product overflows", { shape: [HUGE, HUGE], strides: [HUGE, HUGE] }],
    ["of more elements than the storage says", { elements: 5 }],
  ])("%s that leads out of it is refused", (_, outside) =>
    expectRefused(view(outside), /tensor "weight": float32 .* does not fit its storage of 24 bytes/),
  );

  test("beyond the end of a storage that is shorter than it says is refused", () =>
    expectRefused(view({}, new Uint8Array(23)), /does not fit its storage of 23 bytes/));

  test("that repeats one element until the memory is full is refused", () =>
    expectRefused(view({ shape: [2 ** 20, 2 ** 20], strides: [0, 0] }), /take over 268435456 bytes more memory/));

  test("many of which fill the memory together are refused", () => {
    const large = tensor({ elements: 6, shape: [2 ** 24], strides: [0] });
    const several = dict(Object.fromEntries(Array.from({ length: 5 }, (_, i) => [`weight${i}`, large])));
    return expectRefused(torchZip(pickle(several), { 0: new Uint8Array(24) }), /"weight4": .* more memory/);
  });

  test.each<[string, Partial<View>, RegExp]>([
    ["negative extents", { shape: [-2, 3] }, /shape is no list/],
    ["negative strides", { strides: [-3, 1] }, /strides are no list/],
    ["a negative offset", { offset: -1 }, /offset is no whole number/],
    ["more extents than strides", { shape: [2, 3, 1] }, /3 extents but 2 strides/],
    ["too many axes", { shape: new Array(17).fill(1), strides: new Array(17).fill(1) }, /at most 16 whole numbers/],
    ["a negative size", { elements: -6 }, /something else than a storage/],
  ])("with %s is refused", (_, odd, message) => expectRefused(view(odd), message));

  test("of a type that is not supported is named, and left alone where nothing needs it", async () => {
    const short = tensor({ key: "1", storageClass: "ShortStorage", elements: 2, shape: [2], strides: [1] });
    const weight = tensor({ elements: 1, shape: [1], strides: [1] });
    const storages = { 0: new Uint8Array(4), 1: new Uint8Array(4) };
    await expectRefused(
      torchZip(pickle(dict({ steps: short })), storages),
      /tensor "steps": elements of type ShortStorage are not supported/,
    );
    const beside = torchZip(pickle(dict({ state_dict: dict({ weight }), steps: short })), storages);
    expect([...(await openPytorch(await write(beside))).names()]).toEqual(["weight"]);
  });

  test("whose storage is missing is refused, and no path leads to another file", () =>
    expectRefused(view({ key: "../../etc/passwd" }), /its storage "\.\.\/\.\.\/etc\/passwd" is not in the file/));
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
    const asked = new RegExp(`asks for ${name.replaceAll(".", "\\.")}, which .* Nothing was run`);
    const weight = tensor({ elements: 1, shape: [1], strides: [1] });
    const beside = pickle("}(", text("weight"), weight, text("payload"), ...call, "u");
    await expectRefused(torchZip(beside, { 0: new Uint8Array(4) }), asked);
    await expectRefused(pickle(...call), asked);
    expect(await readdir(folder)).not.toContain("canary");
  });

  test("through a makers' arguments gets nowhere", async () => {
    const rebuild = (maker: string, ...args: Buffer[]) => pickle(`c${maker}\n`, tuple(...args), "R");
    await expectRefused(torchZip(rebuild("torch._utils\n_rebuild_tensor_v2", command())), /a tensor has no storage/);
    await expectRefused(torchZip(rebuild("torch._utils\n_rebuild_parameter", command())), /holds no tensor/);
    await expectRefused(torchZip(rebuild("collections\nOrderedDict", command())), /made of what is no list/);
    await expectRefused(torchZip(rebuild("_codecs\nencode", command(), text("rot13"))), /no latin1 text/);
    await expectRefused(torchZip(pickle(tuple(text("module"), command()), "Q")), /something else than a storage/);
  });

  test("again and again on one large value pays for each time", async () => {
    const large = [text("x".repeat(10_000)), "q\x01", text("latin1"), "q\x020"];
    const again = "c_codecs\nencode\nh\x01h\x02\x86R0".repeat(200);
    await expectRefused(torchZip(pickle(...large, again, "N")), /more than 1000000 steps/);
  });
});

describe("a zip", () => {
  const data = pickle(dict({ weight: tensor({ elements: 1, shape: [1], strides: [1] }) }));
  const entry = { name: "archive/data.pkl", content: data };

  test("that unpacks to more than it says is refused without unpacking it", async () => {
    const zeros = deflateRawSync(Buffer.alloc(2 ** 24));
    const bomb = { name: "archive/data/0", content: zeros, method: 8, size: 4 };
    await expectRefused(zip([entry, bomb]), /does not unpack to the 4 bytes that are announced/);
  });

  test("that says it unpacks to gigabytes is refused before they are allocated", async () => {
    const packed = {
      name: "archive/data/0",
      content: deflateRawSync(Buffer.alloc(2 ** 20)),
      method: 8,
      size: 2 ** 32 - 2,
    };
    await expectRefused(zip([entry, packed]), /take over 268435456 bytes more memory/);
    await expectRefused(zip([{ ...packed, name: "archive/data.pkl" }]), /takes 4294967294 bytes; .* at most 33554432/);
  });

  test("that unpacks to less than it says, or to nonsense, is refused", async () => {
    const four = deflateRawSync(Buffer.alloc(4));
    const packed = { name: "archive/data/0", content: four, method: 8, size: 8 };
    await expectRefused(zip([entry, packed]), /unpacks to 4 bytes, not 8/);
    await expectRefused(zip([entry, { ...packed, content: Buffer.alloc(9, 0xff) }]), /does not unpack/);
  });

  test("with one name twice is refused, as readers differ in which they take", () =>
    expectRefused(zip([entry, entry]), /holds "archive\/data\.pkl" twice/));

  test("packed in a way that is rare is refused", () =>
    expectRefused(zip([{ ...entry, method: 14, size: data.length }]), /packed in a rare way/));

  test.each<[string, string, RegExp]>([
    ["without data.pkl", "archive/model.json", /is a zip without a data\.pkl/],
    ["with paths that lead out", "../data.pkl", /broken zip: invalid relative path/],
    ["with absolute paths", "/etc/data.pkl", /broken zip: absolute path/],
  ])("%s is refused", (_, name, message) => expectRefused(zip([{ name, content: data }]), message));

  test("whose end points far outside the file is refused", async () => {
    const whole = zip([entry]);
    const locator = Buffer.alloc(20, 0xff);
    locator.write("PK\x06\x07", "latin1");
    const zip64 = Buffer.concat([whole.subarray(0, -22), locator, whole.subarray(-22)]);
    await expectRefused(zip64, /broken zip: unexpected EOF/);
  });

  test("of TorchScript, or from a machine of the other byte order, says what to do", async () => {
    const script = { name: "archive/constants.pkl", content: Buffer.alloc(1) };
    await expectRefused(zip([entry, script]), /holds a program \(TorchScript\).*save its state_dict/);
    const order = { name: "archive/byteorder", content: Buffer.from("big") };
    await expectRefused(zip([entry, order]), /big-endian machine/);
  });
});

describe("a file of another kind says so", () => {
  test.each<[string, string, RegExp]>([
    ["a Git LFS pointer", "version https://git-lfs.github.com/spec/v1\n", /is a Git LFS pointer.*git lfs pull/],
    ["a web page", "<!DOCTYPE html><html></html>", /is a web page, not weights/],
    ["an empty file", "", /has only 0 bytes/],
    ["text", "These are not the weights you are looking for.", /0x54 is no|cannot be read/],
  ])("%s", (_, content, message) => expectRefused(Buffer.from(content), message));

  test("another pickle", () => expectRefused(pickle(dict({ lr: int(3) })), /is a pickle, but not of weights/));

  test("a missing file", async () => {
    await expect(openPytorch(join(folder, "none.pt"))).rejects.toThrow(/none\.pt: cannot read this: no such file/);
  });
});
