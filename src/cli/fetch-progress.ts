/** Progress of downloads. */
import { showBytes } from "../io/bytes.js";
import type { OpenListener } from "../pipeline/index.js";
import type { Terminal } from "./terminal.js";

/** Minimum time between two lines of progress. */
const INTERVAL_MS = 200;

/** On a terminal, updates one line; elsewhere, prints a line per file. */
export function fetchProgress(terminal: Terminal): NonNullable<OpenListener["onFetch"]> {
  let [shown, last] = [0, ""];
  return ({ what, file, done, total }) => {
    const [now, finished] = [performance.now(), done === total];
    if (terminal.isTTY ? now - shown < INTERVAL_MS && !finished : file === last) return;
    [shown, last] = [now, file];
    const line = `fetching ${what}: ${file} (${showBytes(done)} of ${showBytes(total)})`;
    if (terminal.isTTY && !finished) terminal.update(line);
    else terminal.say(line);
  };
}
