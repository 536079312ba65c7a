/** What a person sees while a model is fetched. */
import { showBytes } from "../io/bytes.js";
import type { OpenListener } from "../pipeline/index.js";
import type { Terminal } from "./terminal.js";

/** Often enough to see that it goes on. */
const MILLISECONDS_BETWEEN = 200;

/** On a terminal one line that counts up; elsewhere a line for each file. */
export function fetchProgress(terminal: Terminal): NonNullable<OpenListener["onFetch"]> {
  let [shown, last] = [0, ""];
  return ({ what, file, done, total }) => {
    const [now, finished] = [performance.now(), done === total];
    if (terminal.isTTY ? now - shown < MILLISECONDS_BETWEEN && !finished : file === last) return;
    [shown, last] = [now, file];
    const line = `fetching ${what}: ${file} (${showBytes(done)} of ${showBytes(total)})`;
    if (terminal.isTTY && !finished) terminal.update(line);
    else terminal.say(line);
  };
}
