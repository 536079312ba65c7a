/** The results of all methods, however far their runs have come. */
import { join } from "node:path";
import { type MethodResult, readMethod } from "./comparison.js";
import { type Final, knownFinal } from "./final.js";
import { METHODS } from "./methods.js";
import { type Mix, readMix } from "./mix.js";
import { readSeconds } from "./seconds.js";

export interface Results {
  readonly methods: readonly MethodResult[];
  /** The final evaluation of the base model. */
  readonly base: Final | undefined;
  /** CPU seconds per training step, by the name of the method. */
  readonly seconds: Readonly<Record<string, number>>;
  readonly mix: readonly Mix[];
}

export async function readResults(out: string, threads: number | null): Promise<Results> {
  const methods: MethodResult[] = [];
  for (const method of METHODS) methods.push(await readMethod(out, method, threads));
  return {
    methods,
    base: await knownFinal(join(out, "base")),
    seconds: await readSeconds(out),
    mix: await readMix(out),
  };
}

export function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}
