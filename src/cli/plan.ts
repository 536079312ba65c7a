import type { Command } from "commander";
import { loadSettings } from "../config/index.js";
import type { Plan, PlanOption } from "../engine/index.js";
import { showBytes } from "../io/bytes.js";
import { duration } from "../runs/report/index.js";
import { withStart } from "../runs/start.js";
import { plan } from "../train/index.js";
import { fetchProgress } from "./fetch-progress.js";
import { commonOptions, HELP, overridesOf, type SettingsOptions, settingsOptions } from "./options.js";
import { snakeCase } from "./snake-case.js";
import type { Terminal } from "./terminal.js";
import { count } from "./text.js";

interface PlanCommandOptions extends SettingsOptions {
  calibrate: boolean;
}

export function planCommand(root: Command, terminal: Terminal): void {
  const command = root
    .command("plan")
    .summary("estimate the cost of a run, without running it")
    .description(
      "Count the parameters, U-Net calls and floating-point operations of a run, and estimate its time from a few timed calls.",
    )
    .argument("[recipe]", HELP.recipe, undefined)
    .option("--steps <n>", HELP.steps)
    .option("--eval-prompts <list>", HELP.evalPrompts)
    .option("--adapter <path>", HELP.start)
    .option("--no-calibrate", "do not time any calls; print counts only");
  commonOptions(settingsOptions(command))
    .addHelpText(
      "after",
      `
Examples:
  npx alignprop plan
  npx alignprop plan hps --model ./stable-diffusion-v1-5
  npx alignprop plan my-recipe.yaml --model ./stable-diffusion-v1-5 --set batch.per_device=1
  npx alignprop plan --json --no-calibrate`,
    )
    .action(async (recipe: string | undefined, options: PlanCommandOptions) => {
      const absent: string[] = [];
      const warn = (message: string) => terminal.say(`warning: ${message}`);
      const settings = await loadSettings({
        recipe,
        overrides: overridesOf(options),
        absentPrompts: (message) => absent.push(message),
        warn,
      });
      const counted = await plan(await withStart(settings), {
        calibrate: options.calibrate,
        warn,
        onFetch: fetchProgress(terminal),
      });
      const planned = { ...counted, uncounted: [...counted.uncounted, ...absent] };
      if (options.json) terminal.print(JSON.stringify(snakeCase(planned)));
      else for (const [name, value] of planLines(planned)) terminal.print(`${name.padEnd(12)}${value}`);
    });
}

function planLines(plan: Plan): [string, string][] {
  const { estimate, memory } = plan;
  const backward = round(plan.unetBackwardCallsPerStep);
  const lines: [string, string][] = [
    ["model", `${plan.model}, a U-Net of ${amount(plan.backboneParameters)} parameters`],
    ["trainable", `${amount(plan.trainableParameters)} parameters ${PARAMETERS_OF[plan.trainable]}`],
    ["reward", plan.reward],
    [
      "steps",
      `${plan.steps} of ${count(plan.samplesPerStep, "image")}, in ${count(plan.accumulation, "micro-batch")} of ${plan.microBatch} each`,
    ],
    ["U-Net calls", `${plan.unetForwardCallsPerStep} forward and ${backward} backward per step, in ${plan.precision}`],
    ["operations", `${flop(plan.flopsPerStep)} per step, ${flop(plan.flopsPerStep * plan.steps)} in total`],
    ["memory", `about ${showBytes(memory.expectedBytes)}: ${savedLine(plan)}`],
    ["evaluations", `${plan.evaluations} of ${count(plan.imagesPerEvaluation, "image")}`],
  ];
  if (estimate !== undefined) {
    const { secondsPerStep, secondsPerEvaluation, seconds, options } = estimate;
    for (const [i, option] of options.entries()) lines.push([i === 0 ? "budgets" : "", optionLine(option, plan)]);
    lines.push(
      ["time", `${duration(secondsPerStep)} per step, ${duration(secondsPerEvaluation)} per evaluation`],
      ["total time", `about ${duration(seconds)}`],
    );
  }
  for (const part of plan.uncounted) lines.push(["not counted", part]);
  return lines;
}

const PARAMETERS_OF: Readonly<Record<Plan["trainable"], string>> = {
  lora: "of a LoRA adapter",
  unet: "of the whole U-Net",
};

function savedLine({
  memory,
  unetBackwardCallsPerStep: backward,
  unetRecomputedCallsPerStep: recomputed,
}: Plan): string {
  if (memory.maxSavedCalls === 0) return "every backward call recomputes its forward pass";
  const saved = showBytes(memory.maxSavedCalls * memory.residualBytes);
  return `${round(backward - recomputed)} of ${round(backward)} backward calls use saved residuals, at most ${saved} at once`;
}

/** One budget and what it gives: "--memory 5.1GB   12 s per step, …" */
function optionLine({ memory, microBatch, unetWeights, secondsPerStep }: PlanOption, plan: Plan): string {
  // Rounded up, so that the printed budget gives this plan.
  const budget = `--memory ${(Math.ceil(memory.expectedBytes / 1e7) / 100).toFixed(2)}GB`;
  const parts = [
    `${duration(secondsPerStep)} per step`,
    `weights ${unetWeights}`,
    ...(memory.maxSavedCalls > 0 ? [count(memory.maxSavedCalls, "saved call")] : []),
    ...(microBatch < plan.samplesPerStep ? [`micro-batches of ${microBatch}`] : []),
  ];
  return `${budget.padEnd(18)} ${parts.join(", ")}`;
}

/** 1.2e12 → "1.20 TFLOP" */
function flop(operations: number): string {
  const text = amount(operations);
  return text.includes(" ") ? `${text}FLOP` : `${text} FLOP`;
}

/** 797184 → "797 K" */
function amount(value: number): string {
  const units = ["", "K", "M", "G", "T", "P", "E"];
  let unit = 0;
  let scaled = value;
  while (scaled >= 1000 && unit < units.length - 1) [scaled, unit] = [scaled / 1000, unit + 1];
  return `${unit === 0 ? round(scaled) : scaled.toPrecision(3)} ${units[unit]}`.trimEnd();
}

function round(value: number): string {
  return Number.isInteger(value) ? String(value) : value.toFixed(1);
}
