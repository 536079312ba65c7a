/** Errors of the command line's syntax, which commander finds, as `InputError`s. */
import type { Command, CommanderError } from "commander";
import { type ErrorFacts, InputError, nearest } from "../errors/index.js";

/** The error `usage`; `facts` name the option, command or argument, and a suggestion. `args` is the command line. */
export function usageError(error: CommanderError, root: Command, args: readonly string[]): InputError {
  if (error.code === "commander.help") {
    // commander has printed the help.
    const command = fullName(commandOf(root, args));
    return new InputError("usage", `${command} needs a command. The commands are listed above.`, { command });
  }
  const message = error.message.replace(/^error: /, "");
  const found = factsOf(error.code, message);
  // commander suggests an option for `--raward clip`, but not for `--raward=clip`.
  const options = commandOf(root, args).options.flatMap(({ long }) => long ?? []);
  const near = found.suggestion === undefined && found.option ? nearest(String(found.option), options) : undefined;
  if (error.code !== "commander.unknownOption" || near === undefined) return new InputError("usage", message, found);
  return new InputError("usage", `${message}\n(Did you mean ${near}?)`, { ...found, suggestion: near });
}

function factsOf(code: string, message: string): ErrorFacts {
  const [subject, value] = [...message.matchAll(/'([^']*)'/g)].map(([, quoted]) => quoted);
  const suggestion = /\(Did you mean (?:one of )?(.+)\?\)/.exec(message)?.[1];
  const option = subject?.replace(/[ =].*/, "");
  switch (code) {
    case "commander.unknownCommand":
      return { found: subject, suggestion };
    case "commander.missingArgument":
      return { argument: subject };
    case "commander.excessArguments":
      return { command: subject };
    case "commander.invalidArgument":
      return message.startsWith("option") ? { option, found: value } : { argument: subject, found: value };
    default:
      return { option, suggestion };
  }
}

/** The command that the first words of `args` name, or `root`. */
function commandOf(root: Command, [name, ...rest]: readonly string[]): Command {
  const command = root.commands.find((each) => each.name() === name);
  return command === undefined ? root : commandOf(command, rest);
}

/** "alignprop reward check" */
export function fullName(command: Command): string {
  return command.parent === null ? command.name() : `${fullName(command.parent)} ${command.name()}`;
}
