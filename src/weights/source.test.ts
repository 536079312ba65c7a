import { expect, test } from "vitest";
import { fromNumbers } from "../tensor/host.js";
import { fromTensors, merge, readTensor, withPrefix } from "./source.js";

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

test("where two sources hold one name the first wins, and it is listed once", () => {
  const over = merge(fromTensors(new Map([["unet.conv_in.bias", other]])), unet);
  expect([...over.names()]).toEqual(["unet.conv_in.bias"]);
  expect(over.get("unet.conv_in.bias")?.shape).toEqual([1]);
});

test("a tensor in memory is read as it is", async () => {
  const stored = unet.get("unet.conv_in.bias");
  expect(stored && (await readTensor(stored))).toEqual(bias);
});
