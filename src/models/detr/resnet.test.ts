import { expect, test } from "vitest";
import { inputError } from "../../../test/errors.js";
import { fromNumbers } from "../../tensor/host.js";
import { fromTensors } from "../../weights/source.js";
import { timmResNet } from "./resnet.js";

test("weights that are not those of a timm ResNet are refused with the tensor", () => {
  const empty = fromTensors(new Map(), "detr.safetensors");
  const path = "detr.safetensors";
  expect(() => timmResNet(empty, "backbone", { dilated: false })).toThrow(
    inputError("tensor-missing", { path, tensor: "backbone.layer1.0.conv2.weight" }),
  );
  const matrix = fromTensors(new Map([["backbone.layer1.0.conv2.weight", fromNumbers([1, 2], [1, 2])]]), path);
  expect(() => timmResNet(matrix, "backbone", { dilated: false })).toThrow(
    inputError("tensor-mismatch", { path, tensor: "backbone.layer1.0.conv2.weight", found: "[1, 2]" }),
  );
});
