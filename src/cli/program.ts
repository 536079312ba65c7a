/** The command line: its commands and exit codes. */
import { setTimeout } from "node:timers/promises";
import { Command, CommanderError } from "commander";
import { packageVersion } from "../io/package.js";
import { evaluateCommand } from "./evaluate.js";
import { exitCodes, reportFailure } from "./failure.js";
import { generateCommand } from "./generate.js";
import { inspectCommand } from "./inspect.js";
import { mixCommand } from "./mix.js";
import { planCommand } from "./plan.js";
import { pushCommand } from "./push.js";
import { isSpokesman, requireOneRank, silent } from "./ranks.js";
import { rewardCommand } from "./reward.js";
import { scoreCommand } from "./score.js";
import { processTerminal, type Terminal } from "./terminal.js";
import { trainCommand } from "./train.js";
import { fullName, usageError } from "./usage.js";

/** Runs a command and returns the exit code: 0 for success, 1 for a failure while running, 2 for bad input. */
export async function runCommandLine(args: readonly string[], terminal: Terminal = processTerminal()): Promise<number> {
  const verbose = args.includes("--verbose") || (process.env.DEBUG ?? "") !== "";
  const json = args.includes("--json");
  const shown = isSpokesman() ? terminal : silent;
  const root = program(shown);
  try {
    await root.parseAsync(args, { from: "user" });
    return exitCodes.done;
  } catch (error) {
    // `--help` and `--version` end this way too.
    if (error instanceof CommanderError && error.exitCode === 0) return exitCodes.done;
    const reported = error instanceof CommanderError ? usageError(error, root, args) : error;
    const exitCode = reportFailure(reported, shown, { verbose, json });
    // A launcher ends all processes as soon as the first one fails. Leave rank 0 the time to report the error.
    if (!isSpokesman()) await setTimeout(1000);
    return exitCode;
  }
}

function program(terminal: Terminal): Command {
  const root = new Command("alignprop");
  root
    .description(
      "Fine-tune a text-to-image diffusion model by back-propagating a reward through its denoising chain (AlignProp).\n" +
        "`npx alignprop train` fine-tunes the embedded model on the embedded aesthetic reward in a few minutes.",
    )
    .version(packageVersion(), "-V, --version", "print the version")
    .helpOption("-h, --help", "explain a command, with examples")
    .configureHelp({ helpWidth: 100 })
    .configureOutput({
      // `runCommandLine` reports errors.
      outputError: () => {},
      writeOut: (text) => terminal.print(text.trimEnd()),
      writeErr: (text) => terminal.say(text.trimEnd()),
    })
    .exitOverride()
    .hook("preAction", (_, command) => {
      if (command.name() !== "train") requireOneRank(fullName(command));
    })
    .addHelpText("after", EXIT_CODES);
  const commands = [
    trainCommand,
    generateCommand,
    evaluateCommand,
    mixCommand,
    planCommand,
    rewardCommand,
    scoreCommand,
    pushCommand,
    inspectCommand,
  ];
  for (const add of commands) add(root, terminal);
  return root;
}

const EXIT_CODES = `
Exit codes: 0 success, 1 failure while running, 2 wrong usage or bad input.
With --json, a command that fails prints {"error": {"code": …, "message": …}} on stdout.`;
