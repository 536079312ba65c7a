import type { Command } from "commander";
import { loadSettings } from "../config/index.js";
import { readImage } from "../images/read.js";
import { rewardNames, rewardTitle } from "../rewards/index.js";
import { findImages, type ImageFile } from "../runs/record/index.js";
import { format } from "../runs/report/index.js";
import { type Scores, score } from "../scoring/index.js";
import { fetchProgress } from "./fetch-progress.js";
import { interruptible } from "./interrupt.js";
import { collectSet, commonOptions, list, overridesOf, type SettingsOptions } from "./options.js";
import type { Terminal } from "./terminal.js";

interface ScoreCommandOptions extends SettingsOptions {
  recipe?: string;
  prompt?: string;
}

export function scoreCommand(root: Command, terminal: Terminal): void {
  const command = root
    .command("score")
    .summary("the reward of pictures on disk")
    .description(
      "Judge pictures as training and evaluation do, with the same graph and the same preparation of the picture. Of a " +
        "folder the pictures that lie in it are judged, with the prompts of its index.json where it has one.",
    )
    .argument("<images...>", "pictures, or folders of them")
    .option("--recipe <recipe>", "the recipe whose reward judges: a name, or a YAML file such as a run's config.yaml")
    .option("--reward <name>", `${list(rewardNames)}, or the file of one of your own (.js)`)
    .option("--prompt <text>", "what the pictures should show, for rewards that read prompts")
    .option("--offline", "take weights of the hub from its cache alone")
    .option("--device <name>", "cpu, cuda or webgpu")
    .option("--threads <n>", "processor threads (default: one per core)")
    .option("--set <path=value>", "any setting, such as reward.quality=80; may be repeated", collectSet);
  commonOptions(command)
    .addHelpText(
      "after",
      `
Examples:
  alignprop score runs/default-1/samples/step-000024
  alignprop score a.png b.png --reward clip --prompt "three foxes" --json
  alignprop score photos --reward hps --prompt "a lighthouse"
  alignprop score photos --set 'reward={ name: count, count: 2, object: dog, detector: hustvl/yolos-tiny }'`,
    )
    .action((images: string[], options: ScoreCommandOptions) => scoreInto(images, options, terminal));
}

async function scoreInto(images: readonly string[], options: ScoreCommandOptions, terminal: Terminal): Promise<void> {
  const { recipe, prompt, ...settable } = options;
  const warn = (message: string) => terminal.say(`warning: ${message}`);
  const settings = await loadSettings({ recipe, overrides: overridesOf(settable), absentPrompts: () => {}, warn });
  const files = await findImages(images);
  const pictures = files.map((picture) => ({
    name: picture.file,
    prompt: prompt ?? picture.prompt,
    read: () => readImage(picture.file),
  }));
  const scores = await interruptible(terminal, "Stopping after this picture", (signal) =>
    score(pictures, settings, { signal, warn, onFetch: fetchProgress(terminal) }),
  );
  const reward = rewardTitle(settings.reward);
  const entries = entriesOf(files, prompt, scores);
  if (options.json) {
    const { mean, std, rewards } = scores;
    terminal.print(JSON.stringify({ reward, mean, std, pictures: rewards.length, scores: entries }));
    return;
  }
  const width = Math.max(...files.map(({ file }) => file.length));
  for (const { file, reward: value, parts } of entries) {
    const each = Object.entries(parts ?? {}).map(([label, part]) => `  ${label} ${part === null ? "-" : format(part)}`);
    terminal.print(`${file.padEnd(width)}  ${format(value)}${each.join("")}`);
  }
  terminal.print(`${reward} reward ${format(scores.mean)} ± ${format(scores.std)} over ${entries.length} pictures`);
}

function entriesOf(files: readonly ImageFile[], asked: string | undefined, { rewards, parts }: Scores) {
  return files.map(({ file, prompt = null }, i) => ({
    file,
    prompt: asked ?? prompt,
    reward: rewards[i] as number,
    ...(parts && {
      parts: Object.fromEntries(Object.entries(parts).map(([label, values]) => [label, values[i] ?? null])),
    }),
  }));
}
