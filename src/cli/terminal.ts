/**
 * Where a command's words go. Results belong to stdout, so that `--json` can be piped; everything about how the work is
 * going belongs to stderr.
 */
export interface Terminal {
  /** A result, a line of it. */
  print(line: string): void;
  /** Progress, hints and warnings. */
  say(line: string): void;
  /** The last line of progress, to be overwritten by the next; only where `isTTY`. */
  update(line: string): void;
  readonly isTTY: boolean;
}

export function processTerminal(
  out: NodeJS.WriteStream = process.stdout,
  err: NodeJS.WriteStream = process.stderr,
): Terminal {
  // Whoever reads may go away (`| head`); the work goes on.
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
      // Back to the line's start, and erase what the longer line before left.
      err.write(`\r${shown}\x1b[K`);
      unfinished = true;
    },
  };
}
