/** The output of a command. Results go to stdout, so that they can be piped; progress and messages go to stderr. */
export interface Terminal {
  /** Prints a line of the result. */
  print(line: string): void;
  /** Prints a line of progress, a warning or an error. */
  say(line: string): void;
  /** Prints a line of progress that the next line overwrites. Only for terminals (`isTTY`). */
  update(line: string): void;
  readonly isTTY: boolean;
}

export function processTerminal(
  out: NodeJS.WriteStream = process.stdout,
  err: NodeJS.WriteStream = process.stderr,
): Terminal {
  // The reader of a pipe may end early (`| head`). The command continues.
  for (const stream of [out, err]) {
    stream.on("error", (error: NodeJS.ErrnoException) => {
      if (error.code !== "EPIPE") throw error;
    });
  }
  let unfinished = false;
  const finishLine = () => {
    if (unfinished) err.write("\n");
    unfinished = false;
  };
  return {
    isTTY: err.isTTY === true,
    print(line) {
      finishLine();
      out.write(`${line}\n`);
    },
    say(line) {
      finishLine();
      err.write(`${line}\n`);
    },
    update(line) {
      const shown = line.slice(0, Math.max(20, (err.columns || 80) - 1));
      // Return to the start of the line, and erase the rest of a longer previous line.
      err.write(`\r${shown}\x1b[K`);
      unfinished = true;
    },
  };
}
