import { expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { fromNumbers } from "../tensor/host.js";
import { extentOf, fromTensors, merge, readTensor, withPrefix } from "./source.js";

const bias = fromNumbers([1, 2], [2]);
const other = fromNumbers([3], [1]);
const unet = withPrefix(fromTensors(new Map([["conv_in.bias", bias]]), "unet file"), "unet.");
const vae = withPrefix(fromTensors(new Map([["conv_in.bias", other]]), "vae file"), "vae.");

test("a prefix stands before every name, and only prefixed names are found", () => {
  expect([...unet.names()]).toEqual(["unet.conv_in.bias"]);
  expect(unet.get("unet.conv_in.bias")).toMatchObject({ kind: "memory", dtype: "float32", shape: [2] });
  expect(unet.get("conv_in.bias")).toBeUndefined();
});

test("merged sources give the tensors of all, described by all", () => {
  const model = merge(unet, vae);
  expect([...model.names()]).toEqual(["unet.conv_in.bias", "vae.conv_in.bias"]);
  expect(model.get("vae.conv_in.bias")?.shape).toEqual([1]);
  expect(model.get("text_encoder.bias")).toBeUndefined();
  expect(model.describe).toBe("unet file, vae file");
});

test("if two sources have a tensor of the same name, the first wins and it is listed once", () => {
  const over = merge(fromTensors(new Map([["unet.conv_in.bias", other]])), unet);
  expect([...over.names()]).toEqual(["unet.conv_in.bias"]);
  expect(over.get("unet.conv_in.bias")?.shape).toEqual([1]);
});

test("a tensor in memory is read as it is", async () => {
  const stored = unet.get("unet.conv_in.bias");
  expect(stored && (await readTensor(stored))).toEqual(bias);
});

test("an extent is read from the shape, and a missing tensor or axis is refused by name", () => {
  expect(extentOf(unet, "unet.conv_in.bias", 0, "the U-Net")).toBe(2);
  expect(() => extentOf(unet, "unet.conv_out.bias", 0, "the U-Net")).toThrow(
    inputError("tensor-missing", { path: "unet file", tensor: "unet.conv_out.bias" }),
  );
  expect(() => extentOf(unet, "unet.conv_in.bias", 1, "the U-Net")).toThrow(
    inputError("tensor-mismatch", { path: "unet file", tensor: "unet.conv_in.bias", found: [2], expected: 2 }),
  );
});
