import { afterAll, describe, expect, test } from "vitest";
import { tinySettings } from "../../test/tiny.js";
import { Runtime } from "../runtime/runtime.js";
import { plan } from "../train/plan.js";
import { choosePrecision } from "./precision.js";

const runtime = await Runtime.start({ threads: 1 });
afterAll(() => runtime.close());

async function chosen(asked: Parameters<typeof choosePrecision>[0], on?: Runtime) {
  const warnings: string[] = [];
  const precision = await choosePrecision(asked, on, (message) => warnings.push(message));
  return { precision, warnings };
}

describe("the precision", () => {
  test("is float32 on the CPU unless the settings ask for float16, which gives a warning", async () => {
    expect(await chosen({ device: "cpu", precision: "auto" }, runtime)).toEqual({ precision: "float32", warnings: [] });
    const half = await chosen({ device: "cpu", precision: "float16" }, runtime);
    expect(half).toEqual({ precision: "float16", warnings: [expect.stringContaining("no speed on the CPU")] });
  });

  test("is what the settings ask for on a GPU; `auto` is float16 where a trial agrees with float32", async () => {
    for (const precision of ["float32", "float16"] as const) {
      expect(await chosen({ device: "cuda", precision })).toEqual({ precision, warnings: [] });
    }
    // The trial runs on the device of the runtime: here the CPU, which also computes float16.
    expect(await chosen({ device: "webgpu", precision: "auto" }, runtime)).toEqual({
      precision: "float16",
      warnings: [],
    });
  });

  test("falls back to float32 where the trial fails, and says why", async () => {
    const broken = await Runtime.start({ threads: 1 });
    await broken.close();
    expect(await chosen({ device: "webgpu", precision: "auto" }, broken)).toEqual({
      precision: "float32",
      warnings: [expect.stringMatching(/^webgpu does not compute in float16 here \(.*closed.*\); .* in float32$/)],
    });
  });
});

test("a plan counts float16 values as two bytes on a GPU and as four on the CPU", async () => {
  const expected = async (device: "cpu" | "cuda", precision: "float32" | "float16") => {
    // Without residuals: float16 saves none.
    const settings = {
      ...tinySettings({ batch: { samples_per_epoch: 8, total: 8, per_device: 8 } }),
      device,
      precision,
    };
    const counted = await plan(settings, { calibrate: false });
    expect(counted.precision).toBe(precision);
    return counted.memory.expectedBytes;
  };
  expect(await expected("cuda", "float16")).toBeLessThan((await expected("cuda", "float32")) - 1e5);
  expect(await expected("cpu", "float16")).toBe(await expected("cuda", "float32"));
});
