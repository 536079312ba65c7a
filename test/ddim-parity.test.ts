import { readFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { alphaBars, ddimSteps, readSchedulerConfig } from "../src/diffusion/ddim.js";
import { forward, pullback, type VjpCall } from "../src/diffusion/trajectory.js";
import { fromNumbers, toFloat32 } from "../src/tensor/host.js";
import { openGolden, relativeError } from "./golden.js";
import { MODEL_TOLERANCE } from "./tolerance.js";

/** Recorded by parity/ddim.py from diffusers' DDIMScheduler. */
interface Recorded {
  readonly sequences: Record<string, { config: object & { clip_sample?: boolean }; eta: number }>;
  readonly schedules: Record<string, object & { rescale_betas_zero_snr?: boolean }>;
  readonly timesteps: { timestep_spacing: string; steps: number; timesteps: number[] }[];
}

const golden = await openGolden("ddim", { config: "scheduler_config.json" });
const recorded = JSON.parse(await readFile(`${golden.folder}/golden.json`, "utf8")) as Recorded;
const configWith = (change: object) => readSchedulerConfig({ ...(golden.config as object), ...change }, "golden");
const sequences = Object.entries(recorded.sequences).filter(([, { config }]) => !config.clip_sample);

describe("DDIM compared with diffusers", () => {
  for (const [name, change] of Object.entries(recorded.schedules)) {
    test(`has the same alpha-bars with ${name} betas`, () => {
      const bars = alphaBars(configWith({ prediction_type: "v_prediction", ...change }));
      const expected = golden.tensor(`alphas_cumprod.${name}`);
      expect(relativeError(fromNumbers(bars, [bars.length]), expected)).toBeLessThan(MODEL_TOLERANCE);
    });
  }

  for (const { timestep_spacing, steps, timesteps } of recorded.timesteps) {
    test(`visits the same timesteps in ${steps} steps with ${timestep_spacing} spacing`, () => {
      const visited = ddimSteps(configWith({ timestep_spacing }), steps).map(({ timestep }) => timestep);
      expect(visited).toEqual(timesteps);
    });
  }

  for (const [name, { config, eta }] of sequences) {
    test(`takes the same 50 steps forward and backward (${name})`, async () => {
      const outputs = rows("input.model_output");
      const noise = rows("input.variance_noise");
      const steps = ddimSteps(configWith(config), 50, { eta });
      const predict = async (_: Float32Array, step: number) => outputs[step] as Float32Array;
      const initial = toFloat32(golden.tensor("input.sample"));
      const trajectory = await forward(steps, { predict }, initial, (step) => noise[step] as Float32Array);

      const visited = [...trajectory.latents.slice(1), trajectory.final];
      const shape = golden.tensor("input.model_output").shape;
      expect(relativeError(joined(visited, shape), golden.tensor(`${name}.prev_samples`))).toBeLessThan(
        MODEL_TOLERANCE,
      );

      // The recorded outputs do not depend on x, so the upstream gradient of each is the whole gradient with respect to it.
      const upstreams: Float32Array[] = [];
      const vjp = async ({ step, upstream }: VjpCall) => {
        upstreams[step] = upstream;
        return { dx: new Float32Array(upstream.length) };
      };
      const keep = [steps.map(() => true)];
      const dFinal = toFloat32(golden.tensor("upstream.sample"));
      await pullback(steps, { vjp }, trajectory, { dFinal, keep });
      expect(relativeError(joined(upstreams, shape), golden.tensor(`${name}.gradient.model_output`))).toBeLessThan(
        MODEL_TOLERANCE,
      );
    });
  }
});

/** Splits a tensor [steps, …] into one array per step. */
function rows(name: string): Float32Array[] {
  const tensor = golden.tensor(name);
  const steps = tensor.shape[0] as number;
  const values = toFloat32(tensor);
  const each = values.length / steps;
  return Array.from({ length: steps }, (_, i) => values.subarray(i * each, (i + 1) * each));
}

function joined(parts: readonly Float32Array[], shape: readonly number[]) {
  return fromNumbers(
    parts.flatMap((part) => [...part]),
    shape,
  );
}
