import type { Terminal } from "./terminal.js";

/** The shell's convention for a process that SIGINT ended: 128 + 2. */
const interruptedExitCode = 130;

/**
 * Runs `work` with a signal that Ctrl+C (or SIGTERM, which schedulers send) aborts, so that it can come to a good end, which
 * `finishing` names; a second one quits at once.
 */
export async function interruptible<T>(
  terminal: Terminal,
  finishing: string,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController();
  const onSignal = () => {
    if (controller.signal.aborted) process.exit(interruptedExitCode);
    controller.abort();
    terminal.say(`${finishing}; press Ctrl+C again to quit at once.`);
  };
  process.on("SIGINT", onSignal).on("SIGTERM", onSignal);
  try {
    return await work(controller.signal);
  } finally {
    process.off("SIGINT", onSignal).off("SIGTERM", onSignal);
  }
}
