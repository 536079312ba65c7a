// @ts-check
/**
 * Returns freed memory to the system. Node frees the buffers of tensors only when it collects garbage, and the C library keeps
 * freed memory for later. Both would stay beside what the next program needs.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/** @type {(() => void) | undefined} */
let run;

export async function reclaim() {
  run ??= await open();
  run();
}

async function open() {
  setFlagsFromString("--expose-gc");
  const collectGarbage = /** @type {() => void} */ (runInNewContext("gc"));
  const trim = await mallocTrim();
  return () => {
    collectGarbage();
    trim();
  };
}

/** `malloc_trim` of the GNU C library. Other libraries have no such function, and nothing is called. */
async function mallocTrim() {
  if (process.platform !== "linux") return () => {};
  try {
    const { default: koffi } = await import("koffi");
    const trim = koffi.load("libc.so.6").func("int malloc_trim(size_t)");
    return () => void trim(0);
  } catch {
    return () => {};
  }
}
