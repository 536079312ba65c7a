import type { Command } from "commander";
import { loadSettings } from "../config/index.js";
import type { Plan } from "../engine/index.js";
import { showBytes } from "../io/bytes.js";
import { duration } from "../runs/report/index.js";
import { plan } from "../train/index.js";
import { fetchProgress } from "./fetch-progress.js";
import { commonOptions, overridesOf, type SettingsOptions, settingsOptions } from "./options.js";
import type { Terminal } from "./terminal.js";
import { START_HELP, withStart } from "./train.js";

interface PlanCommandOptions extends SettingsOptions {
  calibrate: boolean;
}

export function planCommand(root: Command, terminal: Terminal): void {
  const command = root
    .command("plan")
    .summary("what a run will cost, without running it")
    .description("Count a run's parameters, U-Net calls and operations, and estimate its time from a few timed calls.")
    .argument("[recipe]", "a recipe's name, or a YAML file", undefined)
    .option("--steps <n>", "how many updates to train for")
    .option("--eval-prompts <list>", "what evaluation draws, given like --prompts")
    .option("--adapter <path>", START_HELP)
    .option("--no-calibrate", "count only; time nothing");
  commonOptions(settingsOptions(command))
    .addHelpText(
      "after",
      `
Examples:
  alignprop plan
  alignprop plan hps --model ./stable-diffusion-v1-5
  alignprop plan my-recipe.yaml --model ./stable-diffusion-v1-5 --set batch.per_device=1
  alignprop plan --json --no-calibrate`,
    )
    .action(async (recipe: string | undefined, options: PlanCommandOptions) => {
      const absent: string[] = [];
      const warn = (message: string) => terminal.say(`warning: ${message}`);
      const settings = await loadSettings({
        recipe,
        warn,
        overrides: overridesOf(options),
        absentPrompts: (message) => absent.push(message),
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
    ["learns", `${amount(plan.trainableParameters)} parameters${WHOSE[plan.trainable]} from the ${plan.reward} reward`],
    ["updates", `${plan.steps} of ${plan.samplesPerStep} pictures, in ${plan.accumulation} micro-batches each`],
    ["U-Net calls", `${plan.unetForwardCallsPerStep} forward and ${backward} backward an update, in ${plan.precision}`],
    ["operations", `${amount(plan.flopsPerStep)}FLOP an update, ${amount(plan.flopsPerStep * plan.steps)}FLOP in all`],
    ["memory", `about ${showBytes(memory.expectedBytes)}: ${keptLine(plan)}`],
    ["evaluations", `${plan.evaluations} of ${plan.imagesPerEvaluation} pictures`],
  ];
  if (estimate !== undefined) {
    lines.push(
      [
        "time",
        `${duration(estimate.secondsPerStep)} an update, ${duration(estimate.secondsPerEvaluation)} an evaluation`,
      ],
      ["in all", `about ${duration(estimate.seconds)}`],
    );
  }
  for (const what of plan.uncounted) lines.push(["not counted", what]);
  return lines;
}

const WHOSE: Readonly<Record<Plan["trainable"], string>> = { lora: " of an adapter", unet: ", all of the U-Net," };

function keptLine({
  memory,
  unetBackwardCallsPerStep: backward,
  unetRecomputedCallsPerStep: recomputed,
}: Plan): string {
  if (memory.maxSavedCalls === 0) return "every backward call computes its forward pass again";
  const held = showBytes(memory.maxSavedCalls * memory.residualBytes);
  return `${round(backward - recomputed)} of ${round(backward)} backward calls start from what the forward call kept, ${held} at once`;
}

/** As every other file and result spells its keys. */
function snakeCase(record: object): object {
  const spelt = (key: string) => key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  const inside = (value: unknown) =>
    typeof value === "object" && value !== null && !Array.isArray(value) ? snakeCase(value) : value;
  return Object.fromEntries(Object.entries(record).map(([key, value]) => [spelt(key), inside(value)]));
}

/** 797184 → "797 K". */
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
