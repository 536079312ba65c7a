import { describe, expect, test } from "vitest";
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
    test(`carries an image back along its own noise when the U-Net predicts ${prediction} perfectly`, () => {
      // x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε lies on one trajectory; a perfect prediction must stay on it down to ᾱ = 1.
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

  test("with eta 1 keeps the variance that x_{t-1} has on the forward process", () => {
    // x_t ~ N(0, 1) with a perfect ε̂ of an image that is 0: ε̂ = x_t / √(1−ᾱ_t), so Var x_{t-1} = 1 − ᾱ_{t-1}.
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

  test("refuses clipping, an unknown schedule and impossible step counts by name", () => {
    const read = (changes: object) => () =>
      readSchedulerConfig({ ...stableDiffusion, ...changes }, "scheduler_config.json");
    expect(read({ clip_sample: true })).toThrow(/scheduler_config.json: clip_sample is true; supported: false/);
    expect(read({ beta_schedule: "sigmoid" })).toThrow(/beta_schedule.*squaredcos_cap_v2/);
    expect(() => ddimSteps(read({})(), 0)).toThrow(/0 is not a whole number from 1 to 1000/);
    expect(() => ddimSteps(read({})(), 1000)).toThrow(/steps_offset 1 with 1000 sampling steps visits timestep 1000/);
  });

  test("refuses a file that clips, and one that does not say where its scheduler would clip then", () => {
    const { clip_sample: _, ...silent } = stableDiffusion;
    const read = (over: object) => () => readSchedulerConfig({ ...silent, ...over }, "test");
    expect(read({ clip_sample: true })).toThrow("test: clip_sample is true; supported: false");
    expect(read({ _class_name: "DDIMScheduler" })).toThrow("clip_sample is missing");
    expect(read({ _class_name: "DDPMScheduler" })).toThrow("clip_sample is missing");
    expect(read({ _class_name: undefined })).toThrow("clip_sample is missing");
    // These know no clipping.
    expect(read({ _class_name: "PNDMScheduler" })).not.toThrow();
    expect(read({ _class_name: "EulerDiscreteScheduler" })).not.toThrow();
    expect(read({ _class_name: "EulerDiscreteScheduler", thresholding: true })).toThrow("thresholding is true");
    expect(read({ _class_name: "DPMSolverMultistepScheduler", use_flow_sigmas: true })).toThrow(
      "use_flow_sigmas is true",
    );
  });
});
