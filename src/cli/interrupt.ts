import type { Terminal } from "./terminal.js";

/** The shell's exit code for a process that SIGINT ended: 128 + 2. */
const INTERRUPTED = 130;

/**
 * Runs `work` with a signal that aborts on Ctrl+C, or on SIGTERM, which schedulers send. `work` can then end in order;
 * `finishing` tells the user how. A second Ctrl+C exits at once.
 */
export async function interruptible<T>(
  terminal: Terminal,
  finishing: string,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController();
  const onSignal = () => {
    if (controller.signal.aborted) process.exit(INTERRUPTED);
    controller.abort();
    terminal.say(`${finishing}. Press Ctrl+C again to exit at once.`);
  };
  process.on("SIGINT", onSignal).on("SIGTERM", onSignal);
  try {
    return await work(controller.signal);
  } finally {
    process.off("SIGINT", onSignal).off("SIGTERM", onSignal);
  }
}
