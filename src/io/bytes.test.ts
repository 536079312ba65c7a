import { expect, test } from "vitest";
import { parseBytes, showBytes } from "./bytes.js";

test("parseBytes reads sizes in decimal and binary units", () => {
  expect(parseBytes("4GB")).toBe(4e9);
  expect(parseBytes("1.5 GiB")).toBe(1.5 * 2 ** 30);
  expect(parseBytes(" 800mb ")).toBe(800e6);
  expect(parseBytes("64 B")).toBe(64);
});

test("parseBytes gives undefined for anything that is not a size", () => {
  for (const text of ["", "4", "lots", "GB", "-4GB", "4 ib", "4GBs", "1e9B"]) expect(parseBytes(text)).toBeUndefined();
});

test("showBytes shows three digits", () => {
  expect([showBytes(1234567890), showBytes(435e6), showBytes(0)]).toEqual(["1.23 GB", "435 MB", "0.00 MB"]);
});
