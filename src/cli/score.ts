import type { Command } from "commander";
import { loadSettings } from "../config/index.js";
import { readImage } from "../images/read.js";
import { rewardTitle } from "../rewards/index.js";
import { findImages, type ImageFile } from "../runs/record/index.js";
import { format } from "../runs/report/index.js";
import { type Scores, score } from "../scoring/index.js";
import { fetchProgress } from "./fetch-progress.js";
import { interruptible } from "./interrupt.js";
import { collectSet, commonOptions, HELP, overridesOf, type SettingsOptions } from "./options.js";
import type { Terminal } from "./terminal.js";
import { count } from "./text.js";

interface ScoreCommandOptions extends SettingsOptions {
  recipe?: string;
  prompt?: string;
}

export function scoreCommand(root: Command, terminal: Terminal): void {
  const command = root
    .command("score")
    .summary("score image files with a reward")
    .description(
      "Score image files with a reward, using the same graph and preprocessing as training and evaluation. " +
        "A folder stands for the images directly in it, with the prompts of its index.json if there is one.",
    )
    .argument("<images...>", "image files, or folders of images")
    .option("--recipe <recipe>", "recipe of the reward: a name, or a YAML file such as the config.yaml of a run")
    .option("--reward <name>", HELP.reward)
    .option("--prompt <text>", "prompt of all images, for rewards that read prompts")
    .option("--offline", HELP.offline)
    .option("--device <name>", HELP.device)
    .option("--threads <n>", HELP.threads)
    .option("--set <path=value>", "any setting, such as reward.quality=80; repeatable", collectSet);
  commonOptions(command)
    .addHelpText(
      "after",
      `
Examples:
  npx alignprop score runs/default-1/samples/step-000018
  npx alignprop score a.png b.png --reward clip --prompt "three foxes" --json
  npx alignprop score photos --reward hps --prompt "a lighthouse"
  npx alignprop score photos --set 'reward={ name: count, count: 2, object: dog, detector: hustvl/yolos-tiny }'`,
    )
    .action((images: string[], options: ScoreCommandOptions) => scoreInto(images, options, terminal));
}

async function scoreInto(paths: readonly string[], options: ScoreCommandOptions, terminal: Terminal): Promise<void> {
  const { recipe, prompt, ...settable } = options;
  const warn = (message: string) => terminal.say(`warning: ${message}`);
  const settings = await loadSettings({ recipe, overrides: overridesOf(settable), absentPrompts: () => {}, warn });
  const files = await findImages(paths);
  const images = files.map((image) => ({
    name: image.file,
    prompt: prompt ?? image.prompt,
    read: () => readImage(image.file, { note: warn }),
  }));
  const scores = await interruptible(terminal, "Stopping after this image", (signal) =>
    score(images, settings, { signal, warn, onFetch: fetchProgress(terminal) }),
  );
  const reward = rewardTitle(settings.reward);
  const entries = entriesOf(files, prompt, scores);
  if (options.json) {
    const { mean, std, rewards } = scores;
    terminal.print(JSON.stringify({ reward, mean, std, images: rewards.length, scores: entries }));
    return;
  }
  const width = Math.max(...files.map(({ file }) => file.length));
  for (const { file, reward: value, parts } of entries) {
    const each = Object.entries(parts ?? {}).map(([label, part]) => `  ${label} ${part === null ? "-" : format(part)}`);
    terminal.print(`${file.padEnd(width)}  ${format(value)}${each.join("")}`);
  }
  terminal.print(
    `${reward} reward ${format(scores.mean)} ± ${format(scores.std)} over ${count(entries.length, "image")}`,
  );
}

function entriesOf(files: readonly ImageFile[], given: string | undefined, { rewards, parts }: Scores) {
  return files.map(({ file, prompt = null }, i) => ({
    file,
    prompt: given ?? prompt,
    reward: rewards[i] as number,
    ...(parts && {
      parts: Object.fromEntries(Object.entries(parts).map(([label, values]) => [label, values[i] ?? null])),
    }),
  }));
}
