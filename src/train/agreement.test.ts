import { expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { fakeRanks } from "../../test/fake-ranks.js";
import { tinySettings } from "../../test/tiny.js";
import { checksum } from "../engine/ranks.js";
import { type Facts, requireAgreement } from "./agreement.js";

const facts = (changes: Partial<Facts> = {}): Facts => ({
  settings: tinySettings(),
  precision: "float32",
  model: "m",
  reward: "r",
  step: 0,
  state: 1,
  ...changes,
});

const agreed = (...all: Facts[]) =>
  Promise.all(fakeRanks(all.length).map((cluster, i) => requireAgreement(cluster, all[i] as Facts)));

test("ranks with the same settings and weights agree", async () => {
  const local = { ...tinySettings(), threads: 7, out: "elsewhere", model: "/mnt/model" };
  await expect(agreed(facts(), facts(), facts({ settings: local }))).resolves.toBeDefined();
});

test("ranks that differ are refused with the setting or fingerprint that differs", async () => {
  const refusal = (setting: string, found: string, expected: string, rank = 1) =>
    inputError("ranks-mismatch", { setting, found, expected, rank, host: ["a", "b", "c"][rank] });
  const settings = tinySettings({ lora: { rank: 4 } });
  await expect(agreed(facts(), facts({ settings }))).rejects.toThrow(refusal("lora.rank", "4", "2"));
  await expect(agreed(facts(), facts(), facts({ model: "n" }))).rejects.toThrow(
    refusal("the fingerprint of the model's weights", "n", "m", 2),
  );
  await expect(agreed(facts(), facts({ precision: "float16" }))).rejects.toThrow(
    refusal("precision", "float16", "float32"),
  );
  await expect(agreed(facts(), facts({ step: 10 }))).rejects.toThrow(refusal("the step to resume from", "10", "0"));
});

test("a checksum differs if one number differs by one bit", () => {
  const values = Float32Array.of(1, 2, 3);
  const next = Float32Array.of(1, 2, 3 + 2 ** -22);
  expect(checksum(values)).not.toBe(checksum(next));
  expect(checksum(values)).toBe(checksum(values.slice()));
});
