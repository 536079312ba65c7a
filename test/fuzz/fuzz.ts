/** Fuzzing with many mutations of valid inputs, the same ones in every run. */
import { accessSync, constants, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "vitest";
import { InputError } from "../../src/errors/index.js";
import { Rng } from "../../src/tensor/rng.js";

const MUTATIONS = 10_000;
/** Enough for a busy machine. A mutation that hangs is still found. */
export const LIMIT = { timeout: 300_000 };
/**
 * Bound on the growth of the process. Mutated headers claim many gigabytes, which readers must refuse before they allocate.
 * Garbage that V8 has not collected counts as well: 0.4 GiB on Node 22, another amount with another version or memory size.
 */
const MOST_KIB = 2 ** 20;

/**
 * Calls `read` with mutated inputs. It must read each correctly, which it checks itself, or throw an InputError; LIMIT ends a test
 * that hangs. Both outcomes must occur, otherwise the mutations are too weak or too strong.
 */
export async function fuzz<T>(seed: number, mutate: (rng: Rng) => T, read: (input: T) => unknown): Promise<void> {
  const rng = new Rng(seed);
  let refused = 0;
  const before = process.resourceUsage().maxRSS;
  for (let i = 0; i < MUTATIONS; i++) {
    const input = mutate(rng);
    try {
      await read(input);
    } catch (error) {
      const fault = faultOf(error);
      if (fault) throw new Error(`mutation ${i} of seed ${seed}: ${fault}`, { cause: error });
      refused++;
    }
  }
  expect(refused).toBeGreaterThan(MUTATIONS / 100);
  expect(refused).toBeLessThan(MUTATIONS * 0.99);
  expect(process.resourceUsage().maxRSS - before).toBeLessThan(MOST_KIB);
}

/** A refusal is an InputError with a message that is short enough for a terminal. */
function faultOf(error: unknown): string | undefined {
  if (!(error instanceof InputError)) return "neither read nor refused with an InputError";
  if (error.message.length > 10_000) return `refused with a message of ${error.message.length} characters`;
  return undefined;
}

/** Creates a folder, in memory if the system supports it, so that 10,000 files are not written to a disk. */
export function scratchFolder(): string {
  const inMemory = "/dev/shm";
  try {
    accessSync(inMemory, constants.W_OK);
    return mkdtempSync(join(inMemory, "alignprop-fuzz-"));
  } catch {
    return mkdtempSync(join(tmpdir(), "alignprop-fuzz-"));
  }
}
