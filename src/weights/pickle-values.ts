/** Python objects, as the reader of pickles represents them. */

/**
 * A Python list is an array, dict a Map, set a Set, tuple a Tuple, bytes a Uint8Array, a class or function a
 * PickledName. Other objects are Inert, or whatever the caller's makers return.
 */
export type PickleValue = null | boolean | number | bigint | string | object;

export class Tuple {
  constructor(readonly items: readonly PickleValue[]) {}
}

/** A class or function that the pickle names and that the caller allows. */
export class PickledName {
  constructor(readonly name: string) {}
}

/** An object of a harmless class that nothing here needs. Its content is dropped. */
export class Inert {
  constructor(readonly className: string) {}
}

/** The name of a value's type in Python, for error messages. */
export function typeName(value: PickleValue | undefined): string {
  if (value === undefined) return "nothing";
  if (value === null) return "None";
  if (typeof value === "boolean") return "bool";
  if (typeof value === "number" || typeof value === "bigint") return "number";
  if (typeof value === "string") return "str";
  if (Array.isArray(value)) return "list";
  if (value instanceof Map) return "dict";
  if (value instanceof Set) return "set";
  if (value instanceof Tuple) return "tuple";
  if (value instanceof Uint8Array) return "bytes";
  if (value instanceof PickledName) return "class or function";
  return value instanceof Inert ? value.className : "object";
}
