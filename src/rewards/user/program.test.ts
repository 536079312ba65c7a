import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { inputError } from "../../../test/errors.js";
import type { ErrorFacts } from "../../errors/index.js";
import { float32 } from "../../tensor/host.js";
import { openReward, pathsOnly, rewardSettings } from "../index.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-program-"));
afterAll(() => rm(scratch, { recursive: true }));

const file = join(scratch, "scorer.cjs");
/** The command as messages show it. */
const PROGRAM = `${process.execPath} ${file} --mean`;

/** A reward that runs a script. Its last argument is the path of the image. */
async function reward(script: string, more: object = {}) {
  await writeFile(file, script);
  const settings = rewardSettings.parse({ name: "program", command: [process.execPath, file, "--mean"], ...more });
  return await openReward(settings, pathsOnly);
}

/** Two images, 4 pixels wide and 2 high: one is red, one is white. */
const images = float32(
  Float32Array.from({ length: 2 * 3 * 8 }, (_, i) => (i < 24 ? (i < 8 ? 1 : 0) : 1)),
  [2, 3, 2, 4],
);

async function score(script: string, more: object = {}) {
  return await (await reward(script, more)).scoreExternally?.(images, ["red", "white"]);
}

describe("a program as the reward", () => {
  test("receives each image as a PNG and its prompt, and prints the reward", async () => {
    const sharp = JSON.stringify(createRequire(import.meta.url).resolve("sharp"));
    const found = await score(`
      const [option, path] = process.argv.slice(2);
      require(${sharp})(path).raw().toBuffer().then((bytes) => {
        const mean = bytes.reduce((sum, value) => sum + value, 0) / bytes.length / 255;
        console.log(option === "--mean" ? mean + (process.env.ALIGNPROP_PROMPT === "white" ? 10 : 0) : "?");
      });
    `);
    expect(found?.map((value) => Math.round(value * 1000) / 1000)).toEqual([0.333, 11]);
  });

  test("that fails is reported with its command and its stderr", async () => {
    const failed = (facts: ErrorFacts) => inputError("reward-failed", { program: PROGRAM, ...facts });
    await expect(score("console.error('no such model'); process.exit(3)")).rejects.toThrow(
      failed({ exitCode: 3, stderr: "no such model" }),
    );
    await expect(score("process.kill(process.pid, 'SIGTERM'); setInterval(() => {}, 1000)")).rejects.toThrow(
      failed({ signal: "SIGTERM" }),
    );
    await expect(score("console.log('about 7')")).rejects.toThrow(failed({ found: "about 7" }));
    await expect(score("console.log('')")).rejects.toThrow(failed({ found: "" }));
    await expect(score("setInterval(() => {}, 1000)", { timeout: 0.5 })).rejects.toThrow(failed({ timeout: 0.5 }));
    await expect(score("for (;;) require('fs').writeSync(1, 'x'.repeat(4096))")).rejects.toThrow(
      failed({ limit: 65_536 }),
    );
  });

  test("leaves no images behind", async () => {
    const before = (await readdir(tmpdir())).filter((name) => name.startsWith("alignprop-reward-"));
    await expect(score("process.exit(1)")).rejects.toThrow(inputError("reward-failed", { exitCode: 1 }));
    const after = (await readdir(tmpdir())).filter((name) => name.startsWith("alignprop-reward-"));
    expect(after.filter((name) => !before.includes(name))).toEqual([]);
  });

  test("that does not exist is refused when the reward is opened", async () => {
    const settings = rewardSettings.parse({ name: "program", command: ["no-such-program"] });
    await expect(openReward(settings, pathsOnly)).rejects.toThrow(
      inputError("reward-invalid", { program: "no-such-program", setting: "reward.command" }),
    );
  });
});
