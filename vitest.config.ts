import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["src/**/*.test.ts", "pretrain/**/*.test.ts", "paper/**/*.test.ts", "test/**/*.test.ts"],
    globalSetup: "test/build.ts",
    pool: "forks",
    maxWorkers: 2,
    testTimeout: 180_000,
  },
});
