import { describe, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { TINY_SD } from "../../test/tiny.js";
import { initialLora } from "../nn/lora.js";
import { float32, toFloat32 } from "../tensor/host.js";
import { Rng } from "../tensor/rng.js";
import { type LoraAdapter, type LoraModule, loraScale } from "../weights/lora-files.js";
import { adapterLayout, toFlat, toModules } from "./adapter.js";
import { openPipeline } from "./pipeline.js";

const pipeline = await openPipeline(TINY_SD);
const targets = ["to_q", "to_out.0"];
const MODULE = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q";

describe("an adapter", () => {
  test("is the same as modules and as a vector", () => {
    const layout = adapterLayout(pipeline, { rank: 2, alpha: null, targets });
    const weights = initialLora(layout, new Rng(1)).map((value, i) => value + i);
    const again = toFlat(pipeline, toModules({ layout, weights }));
    expect(again.weights).toEqual(weights);
    expect(again.layout.entries.map(({ name, offset }) => [name, offset])).toEqual(
      layout.entries.map(({ name, offset }) => [name, offset]),
    );
  });

  test("keeps its alpha, as modules and as a vector", () => {
    const layout = adapterLayout(pipeline, { rank: 2, alpha: 6, targets });
    const weights = new Float32Array(layout.size).fill(1);
    const modules = toModules({ layout, weights });
    expect(loraScale(modules.get(MODULE) as LoraModule)).toBe(3);
    const flat = toFlat(pipeline, modules);
    expect(flat.weights).toEqual(weights);
    for (const { scale } of flat.layout.entries) expect(scale).toBe(3);
  });

  test("may have a different rank in each module", () => {
    const ones = (rows: number, columns: number) => float32(new Float32Array(rows * columns).fill(1), [rows, columns]);
    const adapter: LoraAdapter = new Map([
      [MODULE, { down: ones(1, 8), up: ones(8, 1) }],
      [MODULE.replace("to_q", "to_k"), { down: ones(3, 8), up: ones(8, 3) }],
    ]);
    const back = toModules(toFlat(pipeline, adapter));
    for (const [path, { down, up }] of adapter) {
      expect(toFloat32(back.get(path)?.down as typeof down)).toEqual(toFloat32(down));
      expect(toFloat32(back.get(path)?.up as typeof up)).toEqual(toFloat32(up));
    }
  });

  test("of another model is refused with the module that does not fit", () => {
    const zeros = (rows: number, columns: number) => float32(new Float32Array(rows * columns), [rows, columns]);
    const of = (path: string, inFeatures: number): LoraAdapter =>
      new Map([[path, { down: zeros(1, inFeatures), up: zeros(8, 1) }]]);
    expect(() => toFlat(pipeline, of(MODULE, 320))).toThrow(
      inputError("adapter-mismatch", {
        layer: MODULE,
        model: TINY_SD,
        found: ["[1, 320]", "[8, 1]"],
        expected: ["[1, 8]", "[8, 1]"],
      }),
    );
    expect(() => toFlat(pipeline, of(`${MODULE}x`, 8))).toThrow(
      inputError("adapter-mismatch", { layer: `${MODULE}x`, model: TINY_SD, suggestion: MODULE }),
    );
  });
});
