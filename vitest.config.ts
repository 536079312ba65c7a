import { defineConfig } from "vitest/config";
import { SkipsReporter } from "./test/skips.js";

// Tests take seconds; the limits leave room for slow and busy machines.
const shared = { pool: "forks", testTimeout: 180_000, hookTimeout: 180_000 } as const;

export default defineConfig({
  test: {
    maxWorkers: 2,
    reporters: ["default", new SkipsReporter()],
    coverage: {
      include: ["src/**/*.{ts,js}"],
      exclude: ["**/*.test.ts"],
      reporter: ["text-summary", "html"],
      reportOnFailure: true,
    },
    projects: [
      {
        test: {
          ...shared,
          name: "unit",
          include: [
            "src/**/*.test.ts",
            "pretrain/**/*.test.ts",
            "paper/**/*.test.ts",
            "bench/**/*.test.ts",
            "test/**/*.test.ts",
          ],
          exclude: ["test/fuzz/**", "test/package/**"],
          globalSetup: "test/build.ts",
        },
      },
      // Decoders and loaders against mutated files: `npm run fuzz`.
      { test: { ...shared, name: "fuzz", include: ["test/fuzz/**/*.test.ts"] } },
      // Packs the package, installs it in an empty project and runs it there: `npm run test:package`.
      {
        test: {
          ...shared,
          name: "package",
          include: ["test/package/**/*.test.ts"],
        },
      },
    ],
  },
});
