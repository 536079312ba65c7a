// @ts-check
/** The control messages between ranks, and how they fit into their fixed number of bytes. */

/** @typedef {import("../protocol.js").Ending} Ending */

/**
 * @typedef {{ kind: "alive" }
 *   | { kind: "ready", turn: number, operation: string, patience: number | null }
 *   | { kind: "go", turn: number }
 *   | { kind: "end", ending: Ending }
 *   | { kind: "leaving" }
 *   | { kind: "leave" }} Message
 */

export const MESSAGE_BYTES = 4096;

/** Longest error message, in characters. Each may take six bytes of JSON. */
const MOST_TEXT = 600;

/**
 * Cuts an error to the size of a message: the start of its text, and those facts that fit. JSON turns NaN into null.
 * @param {Ending} ending
 * @returns {Ending}
 */
export function inShort(ending) {
  if (ending.kind !== "error") return ending;
  const { facts, ...rest } = ending;
  /** @type {import("../protocol.js").RankError} */
  let short = { ...rest, message: ending.message.slice(0, MOST_TEXT) };
  for (const [key, value] of Object.entries(facts ?? {})) {
    const longer = { ...short, facts: { ...short.facts, [key]: value } };
    if (bytesOf({ kind: "end", ending: longer }).length <= MESSAGE_BYTES) short = longer;
  }
  return short;
}

/** @param {Message} message */
export function bytesOf(message) {
  return Buffer.from(`${JSON.stringify(message)}\0`);
}
