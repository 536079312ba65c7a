import type { Command } from "commander";
import { type Cluster, together } from "../cluster/index.js";
import { trackerNames } from "../config/index.js";
import type { RunFolder } from "../runs/run-folder.js";
import { trainInFolder } from "../runs/train-folder.js";
import { fetchProgress } from "./fetch-progress.js";
import { interruptible } from "./interrupt.js";
import { openRun, type RunOptions } from "./open-run.js";
import { collect, commonOptions, HELP, settingsOptions } from "./options.js";
import { outcomeOf, printOutcome } from "./outcome.js";
import { progress } from "./progress.js";
import { withRanks } from "./ranks.js";
import type { Terminal } from "./terminal.js";
import { list } from "./text.js";

export function trainCommand(root: Command, terminal: Terminal): void {
  const command = root
    .command("train")
    .summary("fine-tune a model on a reward")
    .description(
      "Fine-tune a model on a reward and write a run folder: metrics, images, checkpoints and report.html.\n" +
        "Ctrl+C finishes the current step and saves it. --resume continues from there.",
    )
    .argument("[recipe]", HELP.recipe, undefined)
    .option("--steps <n>", HELP.steps)
    .option("--out <folder>", "run folder (default: runs/<recipe>-<n>)")
    .option("--resume <folder>", "continue the run in this folder")
    .option("--eval-prompts <list>", HELP.evalPrompts)
    .option("--adapter <path>", HELP.start)
    .option("--track <name>", `also log the run to ${list(trackerNames)}; repeatable`, collect);
  commonOptions(settingsOptions(command))
    .addHelpText(
      "after",
      `
Examples:
  npx alignprop train
  npx alignprop train --reward compressibility --steps 40
  npx alignprop train my-recipe.yaml --model ./stable-diffusion-v1-5 --out runs/mine
  npx alignprop train clip --prompts foxes.txt --template "a photo of {}" --negative-prompt blurry
  npx alignprop train --set lora.rank=8 --set estimator.truncation.mode=per-step
  npx alignprop train --set 'lora.targets=[attention, feed-forward]' --set lora.rank=8
  npx alignprop train --set trainable=unet --set optimizer.learning_rate=1e-5
  npx alignprop train --track tensorboard --track wandb

Start a new run from the adapter of another one:
  npx alignprop train --adapter runs/default-1 --reward clip

Continue a run, up to step 80:
  npx alignprop train --resume runs/default-1 --steps 80`,
    )
    .action(async (recipe: string | undefined, options: RunOptions) => {
      await withRanks(terminal, options, async (cluster) => {
        const warn = (message: string) => terminal.say(`warning: ${message}`);
        const run = await together(cluster, () => openRun(recipe, options, { cluster, warn }));
        await trainInto(run, terminal, options.json === true, cluster);
      });
    });
}

async function trainInto(run: RunFolder, terminal: Terminal, json: boolean, cluster: Cluster): Promise<void> {
  const { result, trackers } = await interruptible(terminal, stopNotice(cluster), (signal) =>
    trainInFolder(run, {
      observer: progress(terminal, run.settings),
      warn: (message) => terminal.say(`warning: ${message}`),
      tell: (message) => terminal.say(message),
      onFetch: fetchProgress(terminal),
      signal,
      cluster,
    }),
  );
  // Only rank 0 has a run folder.
  if (cluster.rank > 0) return;
  const outcome = await outcomeOf(run, result, trackers);
  if (json) terminal.print(JSON.stringify(outcome));
  else printOutcome(outcome, run.settings, terminal);
}

function stopNotice({ rank, size }: Cluster): string {
  if (rank > 0) return "Ending";
  return size === 1 ? "Finishing this step and saving" : "Saving the last step on all ranks";
}
