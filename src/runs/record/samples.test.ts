import { expect, test } from "vitest";
import { imageFileName } from "./samples.js";

test.each([
  ["a cat", 0, "000_a-cat.png"],
  ["two dogs, at night!", 41, "041_two-dogs-at-night.png"],
  ["../../etc/passwd", 1, "001_etc-passwd.png"],
  ["C:\\con\u0000 |aux?", 2, "002_C-con-aux.png"],
  ["ein Häschen 猫", 1000, "1000_ein-Häschen-猫.png"],
  ["☃ …", 3, "003.png"],
  ["", 4, "004.png"],
])("the image of %j, number %i, is named %s", (prompt, index, name) => {
  expect(imageFileName(prompt, index)).toBe(name);
});

test("the file name of a long prompt fits every file system", () => {
  expect(Buffer.byteLength(imageFileName("𝒜".repeat(4096), 123456))).toBeLessThanOrEqual(255);
  expect(imageFileName(`${"a ".repeat(28)}b`, 0)).toBe(`000_${"a-".repeat(27)}a.png`);
});
