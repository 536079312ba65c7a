/**
 * Parity with PyTorch in one table. Makes tiny checkpoints of each model family with random weights, runs them in diffusers,
 * transformers and PEFT (parity/families.py) and here, and prints the relative differences. The exit code is 1 if one of them is
 * above its tolerance.
 *
 *     npm run parity -- --python .venv/bin/python [--seed 1] [family …]
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Runtime } from "../src/runtime/runtime.js";
import { type Comparison, compareFamily, type FamilyErrors, TOLERANCES } from "./families.js";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { python: { type: "string", default: "python3" }, seed: { type: "string", default: "0" } },
});

const columns = Object.keys(TOLERANCES) as Comparison[];
const isTooFar = (row: FamilyErrors, column: Comparison) => !(row[column] <= TOLERANCES[column]);

/** The root of the package, from parity/ or from dist/parity/. */
const root = [join(import.meta.dirname, ".."), join(import.meta.dirname, "../..")].find((at) =>
  existsSync(join(at, "parity/families.py")),
) as string;

const out = mkdtempSync(join(tmpdir(), "alignprop-parity-"));
try {
  const script = [join(root, "parity/families.py"), "--out", out, "--seed", values.seed, ...positionals];
  const child = spawnSync(values.python, script, { stdio: ["ignore", "ignore", "inherit"] });
  if (child.error || child.status !== 0) {
    console.error(
      `${values.python} could not make the checkpoints${child.error ? `: ${child.error.message}` : ""}. ` +
        "It needs the packages of parity/requirements.txt. Choose another Python with --python.",
    );
    process.exitCode = 2;
  } else {
    const errors = await compareAll(readdirSync(out).filter((name) => name !== "reward"));
    print(errors);
    if ([...errors.values()].some((row) => columns.some((column) => isTooFar(row, column)))) process.exitCode = 1;
  }
} finally {
  rmSync(out, { recursive: true });
}

async function compareAll(families: readonly string[]): Promise<Map<string, FamilyErrors>> {
  const runtime = await Runtime.start({ threads: 1 });
  const errors = new Map<string, FamilyErrors>();
  for (const family of families) {
    errors.set(family, await compareFamily(runtime, join(out, family), join(out, "reward")));
  }
  await runtime.close();
  return errors;
}

function print(errors: ReadonlyMap<string, FamilyErrors>): void {
  const shown = (row: FamilyErrors, column: Comparison) =>
    `${row[column].toExponential(1)}${isTooFar(row, column) ? " !" : ""}`;
  const rows = [
    ["family", ...columns],
    ...[...errors].map(([family, row]) => [family, ...columns.map((column) => shown(row, column))]),
    ["at most", ...columns.map((column) => TOLERANCES[column].toExponential(1))],
  ];
  const widths = ["family", ...columns].map((_, i) => Math.max(...rows.map((row) => (row[i] as string).length)));
  for (const row of rows) console.log(row.map((cell, i) => cell.padEnd(widths[i] as number)).join("  "));
}
