/**
 * Building blocks for zod schemas of the config.json files of diffusers and transformers. A schema names the keys that
 * the model reads, and those that would change the model, with the values that are supported. Other keys are ignored:
 * config files hold many that have no effect here.
 */
import { z } from "zod";
import { checkJson } from "./json.js";

/**
 * Checks a parsed config file against a schema.
 *
 * @throws InputError `config-invalid`, with the facts that `checkJson` gives.
 */
export function parseConfig<S extends z.ZodType>(schema: S, json: unknown, file: string): z.output<S> {
  return checkJson(schema, json, file, "config-invalid");
}

export const upTo = (most: number) => z.int().positive().max(most);

/** An extent or an amount. The bound is far above any real one; it keeps a hostile file from exhausting the memory. */
export const count = upTo(2 ** 20);

/** How often a block is repeated. The bound is lower because each repetition adds nodes to the graph. */
export const depth = upTo(1000);

/**
 * A key that other models of the class use, but which is supported only at its neutral value or absent. Python's None
 * is null.
 */
export function only<T extends string | number | boolean | null>(value: T) {
  return z.literal(value).optional();
}
