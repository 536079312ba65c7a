import { describe, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { alphaBars, ddimSteps, type Prediction, readSchedulerConfig } from "./ddim.js";

const stableDiffusion = {
  _class_name: "PNDMScheduler",
  beta_start: 0.00085,
  beta_end: 0.012,
  beta_schedule: "scaled_linear",
  clip_sample: false,
  set_alpha_to_one: false,
  steps_offset: 1,
};

describe("DDIM", () => {
  test("visits 981, 961 … 1 in Stable Diffusion's 50 steps", () => {
    const steps = ddimSteps(readSchedulerConfig(stableDiffusion, "test"), 50);
    expect(steps.map((step) => step.timestep)).toEqual(Array.from({ length: 50 }, (_, i) => 981 - 20 * i));
  });

  for (const prediction of ["epsilon", "v_prediction", "sample"] satisfies Prediction[]) {
    test(`recovers the image when the U-Net predicts ${prediction} perfectly`, () => {
      // x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε lies on one trajectory. With perfect predictions, the chain stays on it to ᾱ = 1.
      const config = readSchedulerConfig(
        { ...stableDiffusion, set_alpha_to_one: true, prediction_type: prediction },
        "test",
      );
      const alphaBar = alphaBars(config);
      const [x0, epsilon] = [0.3, -1.2];
      const steps = ddimSteps(config, 10);
      const noised = (bar: number) => Math.sqrt(bar) * x0 + Math.sqrt(1 - bar) * epsilon;
      let x = noised(alphaBar[steps[0]?.timestep as number] as number);
      for (const { timestep, a, b } of steps) {
        const bar = alphaBar[timestep] as number;
        const output = {
          epsilon,
          sample: x0,
          v_prediction: Math.sqrt(bar) * epsilon - Math.sqrt(1 - bar) * x0,
        }[prediction];
        x = a * x + b * output;
      }
      expect(x).toBeCloseTo(x0, 10);
    });
  }

  test("with eta 1 gives x_{t-1} the variance of the forward process", () => {
    // If the image is 0, the perfect prediction is ε̂ = x_t / √(1−ᾱ_t), so Var x_{t-1} = 1 − ᾱ_{t-1}.
    const config = readSchedulerConfig(stableDiffusion, "test");
    const alphaBar = alphaBars(config);
    const steps = ddimSteps(config, 20, { eta: 1 });
    for (const [i, { timestep, a, b, sigma }] of steps.slice(0, -1).entries()) {
      const here = 1 - (alphaBar[timestep] as number);
      const previous = 1 - (alphaBar[steps[i + 1]?.timestep as number] as number);
      expect((a + b / Math.sqrt(here)) ** 2 * here + sigma ** 2).toBeCloseTo(previous, 10);
    }
  });

  test("trailing spacing starts at the last training timestep", () => {
    const steps = ddimSteps(readSchedulerConfig({ ...stableDiffusion, timestep_spacing: "trailing" }, "test"), 4);
    expect(steps.map((step) => step.timestep)).toEqual([999, 749, 499, 249]);
  });

  test("linspace spacing covers both ends of training", () => {
    const steps = ddimSteps(readSchedulerConfig({ ...stableDiffusion, timestep_spacing: "linspace" }, "test"), 4);
    expect(steps.map((step) => step.timestep)).toEqual([999, 666, 333, 0]);
  });

  test("refuses clipping, an unknown schedule and invalid step counts", () => {
    const read = (changes: object) => () =>
      readSchedulerConfig({ ...stableDiffusion, ...changes }, "scheduler_config.json");
    const path = "scheduler_config.json";
    expect(read({ clip_sample: true })).toThrow(
      inputError("config-invalid", { path, keys: ["clip_sample"], found: ["true"], expected: ["false"] }),
    );
    expect(read({ beta_schedule: "sigmoid" })).toThrow(
      inputError("config-invalid", {
        path,
        keys: ["beta_schedule"],
        found: ['"sigmoid"'],
        expected: ["linear, scaled_linear, squaredcos_cap_v2"],
      }),
    );
    expect(() => ddimSteps(read({})(), 0)).toThrow(
      inputError("setting-invalid", { setting: "sampling.steps", found: 0, limit: 1000 }),
    );
    expect(() => ddimSteps(read({})(), 1000)).toThrow(
      inputError("config-invalid", { path, keys: ["steps_offset"], offset: 1, steps: 1000, found: 1000, limit: 999 }),
    );
  });

  test("starts from pure noise with any number of steps, if the betas are rescaled to end there", () => {
    const config = readSchedulerConfig(
      {
        ...stableDiffusion,
        prediction_type: "v_prediction",
        rescale_betas_zero_snr: true,
        timestep_spacing: "trailing",
      },
      "test",
    );
    for (let count = 1; count <= 200; count++) {
      const [first] = ddimSteps(config, count, { eta: 1 });
      // ᾱ_t = 0, so σ² = 1 − ᾱ_{t-1}, and nothing of the noise ε̂ = x_t is left: x_{t-1} = −√ᾱ_{t-1} · v + σ z
      expect(first?.a, `${count} steps`).toBeCloseTo(0, 6);
      expect((first?.b as number) ** 2 + (first?.sigma as number) ** 2, `${count} steps`).toBeCloseTo(1, 12);
    }
  });

  test("refuses betas that leave no signal, a wrong number of betas, and epsilon prediction from pure noise", () => {
    const read = (changes: object) => readSchedulerConfig({ ...stableDiffusion, ...changes }, "test");
    const path = "scheduler_config.json";
    expect(() => ddimSteps(read({ beta_start: 0.9, beta_end: 0.99 }), 50)).toThrow(
      inputError("config-invalid", { path, timestep: 981, found: 0 }),
    );
    expect(() => ddimSteps(read({ trained_betas: [0.1] }), 50)).toThrow(
      inputError("config-invalid", { path, keys: ["trained_betas"], found: 1, expected: 1000 }),
    );
    expect(() => read({ rescale_betas_zero_snr: true })).toThrow(
      inputError("config-invalid", { path: "test", keys: ["rescale_betas_zero_snr", "prediction_type"] }),
    );
  });

  test("refuses a file with clipping, and one without clip_sample if its scheduler clips by default", () => {
    const { clip_sample: _, ...silent } = stableDiffusion;
    const read = (over: object) => () => readSchedulerConfig({ ...silent, ...over }, "test");
    const invalid = (key: string, found: string) =>
      inputError("config-invalid", { path: "test", keys: [key], found: [found], expected: ["false"] });
    expect(read({ clip_sample: true })).toThrow(invalid("clip_sample", "true"));
    expect(read({ _class_name: "DDIMScheduler" })).toThrow(invalid("clip_sample", "missing"));
    expect(read({ _class_name: "DDPMScheduler" })).toThrow(invalid("clip_sample", "missing"));
    expect(read({ _class_name: undefined })).toThrow(invalid("clip_sample", "missing"));
    // These schedulers never clip.
    expect(read({ _class_name: "PNDMScheduler" })).not.toThrow();
    expect(read({ _class_name: "EulerDiscreteScheduler" })).not.toThrow();
    expect(read({ _class_name: "EulerDiscreteScheduler", thresholding: true })).toThrow(
      invalid("thresholding", "true"),
    );
    expect(read({ _class_name: "DPMSolverMultistepScheduler", use_flow_sigmas: true })).toThrow(
      invalid("use_flow_sigmas", "true"),
    );
  });
});
