/**
 * A reader of Python's pickles that builds plain data and nothing else.
 *
 * A pickle is a program for a small stack machine, and some of its opcodes call any function that the pickle names.
 * Here there is nothing to call: a name that the caller does not list is refused, and a name that it lists stands for a
 * TypeScript function or for inert data. The opcodes are those of protocols 0 to 5, as listed in
 * https://docs.python.org/3/library/pickletools.html
 */
import { OPCODES } from "./pickle-opcodes.js";
import { PickleReader } from "./pickle-reader.js";
import type { PickleValue } from "./pickle-values.js";
import { type PickleOptions, Unpickler } from "./unpickler.js";

/**
 * Reads the pickle that begins at `start`. `end` is the position after its STOP, where another pickle may begin.
 *
 * @throws InputError `file-malformed`, or `file-unsupported` when it names a class or function that is not listed
 */
export function unpickle(bytes: Uint8Array, options: PickleOptions, start = 0): { value: PickleValue; end: number } {
  return new Unpickler(new PickleReader(bytes, options.where, start), options).run(OPCODES);
}
