/** Selects the files of an adapter in a repository. */
import { InputError } from "../../errors/index.js";
import { adapterAmong, PEFT_CONFIG, PEFT_WEIGHTS } from "../adapter-file.js";
import type { Choose } from "./snapshot.js";

/**
 * Selects the file that PEFT or diffusers would load, or the only file of weights, and PEFT's config beside it.
 *
 * @param adapter the adapter as the user gave it, for error messages
 */
export function adapterFiles(adapter: string): Choose {
  return async (paths) => {
    const outer = paths.filter((path) => !path.includes("/"));
    const safe = outer.filter((path) => path.endsWith(".safetensors"));
    const found = await adapterAmong(outer, (name) => safe.length === 0 || safe.includes(name));
    if (typeof found === "string") {
      const config = PEFT_WEIGHTS.includes(found) && outer.includes(PEFT_CONFIG) ? [PEFT_CONFIG] : [];
      return [found, ...config];
    }
    const suggestion = found[0] === undefined ? undefined : `${adapter}/${found[0]}`;
    throw new InputError(
      "adapter-unsupported",
      suggestion === undefined
        ? `adapter ${adapter}: the repository has no file of an adapter at its top level.`
        : `adapter ${adapter}: the repository has several files: ${found.join(", ")}. Give one of them, such as ${suggestion}.`,
      { model: adapter, found, suggestion },
    );
  };
}
