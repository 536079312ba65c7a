/** The command line as a whole: its commands, and how each way of ending is told. */
import { setTimeout } from "node:timers/promises";
import { Command } from "commander";
import { nearest } from "../errors/index.js";
import { packageVersion } from "../io/package.js";
import { evaluateCommand } from "./evaluate.js";
import { failureOf } from "./failure.js";
import { generateCommand } from "./generate.js";
import { mixCommand } from "./mix.js";
import { planCommand } from "./plan.js";
import { pushCommand } from "./push.js";
import { requireOneRank, silent, talks } from "./ranks.js";
import { rewardCommand } from "./reward.js";
import { scoreCommand } from "./score.js";
import { processTerminal, type Terminal } from "./terminal.js";
import { trainCommand } from "./train.js";

/** Runs the command that `args` name and gives the exit code: 0 done, 1 failed while running, 2 bad input. */
export async function runCommandLine(args: readonly string[], terminal: Terminal = processTerminal()): Promise<number> {
  const verbose = args.includes("--verbose") || (process.env.DEBUG ?? "") !== "";
  const shown = talks() ? terminal : silent;
  try {
    await program(shown, args[0]).parseAsync(args, { from: "user" });
    return 0;
  } catch (error) {
    const { exitCode, message } = failureOf(error, verbose);
    if (message !== undefined) shown.say(message);
    // Launchers end all processes when the first one fails: not before it has been said why.
    if (!talks() && exitCode !== 0) await setTimeout(1000);
    return exitCode;
  }
}

function program(terminal: Terminal, asked: string | undefined): Command {
  const root = new Command("alignprop");
  root
    .description(
      "Fine-tune a text-to-image diffusion model by back-propagating a reward through its denoising chain (AlignProp). " +
        "`alignprop train` alone teaches the embedded model the embedded aesthetic reward, in a few minutes.",
    )
    .version(packageVersion(), "-V, --version", "print the version")
    .helpOption("-h, --help", "explain a command, with examples")
    .configureHelp({ helpWidth: 100 })
    .configureOutput({
      outputError: (message, write) =>
        write(
          withSuggestion(
            message,
            root.commands.find((command) => command.name() === asked),
          ),
        ),
      writeOut: (text) => terminal.print(text.trimEnd()),
      writeErr: (text) => terminal.say(text.trimEnd()),
    })
    .exitOverride()
    .hook("preAction", (_, command) => {
      if (command.name() !== "train") requireOneRank(command.name());
    })
    .addHelpText("after", "\nExit codes: 0 done, 1 failed while running, 2 wrong usage or bad input.");
  for (const add of [
    trainCommand,
    generateCommand,
    evaluateCommand,
    mixCommand,
    planCommand,
    rewardCommand,
    scoreCommand,
    pushCommand,
  ])
    add(root, terminal);
  return root;
}

/** commander compares an unknown option with those that it knows, but not where a value is joined to it: `--raward=clip`. */
function withSuggestion(message: string, command: Command | undefined): string {
  const misspelt = /^error: unknown option '(--[^'=]+)=/.exec(message)?.[1];
  if (misspelt === undefined) return message;
  const options = command?.options.flatMap(({ long }) => long ?? []) ?? [];
  const near = nearest(misspelt, options);
  return near === undefined ? message : `${message.trimEnd()}\n(Did you mean ${near}?)\n`;
}
