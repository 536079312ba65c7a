import type { Reporter, TestModule } from "vitest/node";

/**
 * Fails a run in which a test was skipped that may not be, so that CI cannot pass by skipping what it should check.
 *
 * `ALIGNPROP_MAY_SKIP` lists the parts of test names that may be skipped, separated by commas. Set but empty, it allows no skipped
 * test. Where it is not set, as on a developer's machine, every test may be skipped.
 */
export class SkipsReporter implements Reporter {
  constructor(private readonly maySkip = process.env.ALIGNPROP_MAY_SKIP) {}

  onTestRunEnd(modules: readonly Pick<TestModule, "children" | "relativeModuleId">[]): void {
    const refused = refusedSkips(modules, this.maySkip);
    if (refused.length === 0) return;
    console.error(
      `${refused.length} tests were skipped that ALIGNPROP_MAY_SKIP (${JSON.stringify(this.maySkip)}) does not name:\n` +
        `${refused.map((name) => `  ${name}\n`).join("")}Install what they need, or name them there.`,
    );
    process.exitCode = 1;
  }
}

/** Names of skipped tests that contain none of the parts in `maySkip`. */
export function refusedSkips(
  modules: readonly Pick<TestModule, "children" | "relativeModuleId">[],
  maySkip: string | undefined,
): string[] {
  if (maySkip === undefined) return [];
  const parts = maySkip.split(",").filter(Boolean);
  return modules
    .flatMap(({ children, relativeModuleId }) =>
      [...children.allTests("skipped")].map(({ fullName }) => `${relativeModuleId} > ${fullName}`),
    )
    .filter((name) => !parts.some((part) => name.includes(part)));
}
