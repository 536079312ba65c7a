import { z } from "zod";

/**
 * A config.json of the diffusers or transformers kind. Keys that a schema does not name are left alone: files hold
 * many that change nothing here. Those that would change the model are named, with the values that are supported.
 */
export { checkJson as parseConfig } from "./json.js";

export const upTo = (most: number) => z.int().positive().max(most);
/** Extents and amounts. The bound is far above any real one; it keeps a hostile file from filling the memory. */
export const count = upTo(2 ** 20);
/** How often a part is repeated; each repetition is more graph. */
export const depth = upTo(1000);

/** A key that other models of the class use, and this one only at its neutral value (null is Python's None). */
export function only<T extends string | number | boolean | null>(value: T) {
  return z.literal(value).optional();
}
