import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { float32 } from "../../tensor/host.js";
import { openReward, pathsOnly, rewardSettings } from "../index.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-program-"));
afterAll(() => rm(scratch, { recursive: true }));

/** The reward that a script makes; it is given the picture's path as its last argument. */
async function reward(script: string, more: object = {}) {
  const file = join(scratch, "judge.cjs");
  await writeFile(file, script);
  const settings = rewardSettings.parse({ name: "program", command: [process.execPath, file, "--mean"], ...more });
  return await openReward(settings, pathsOnly);
}

/** Two pictures of 4 x 2 pixels: one that is red, one that is white. */
const images = float32(
  Float32Array.from({ length: 2 * 3 * 8 }, (_, i) => (i < 24 ? (i < 8 ? 1 : 0) : 1)),
  [2, 3, 2, 4],
);

async function judged(script: string, more: object = {}) {
  return await (await reward(script, more)).outside?.(images, ["red", "white"]);
}

describe("a program as the reward", () => {
  test("gets each picture as a PNG and its prompt, and its number is the reward", async () => {
    const sharp = JSON.stringify(createRequire(import.meta.url).resolve("sharp"));
    const found = await judged(`
      const [option, path] = process.argv.slice(2);
      require(${sharp})(path).raw().toBuffer().then((bytes) => {
        const mean = bytes.reduce((sum, value) => sum + value, 0) / bytes.length / 255;
        console.log(option === "--mean" ? mean + (process.env.ALIGNPROP_PROMPT === "white" ? 10 : 0) : "?");
      });
    `);
    expect(found?.map((value) => Math.round(value * 1000) / 1000)).toEqual([0.333, 11]);
  });

  test("is told with its command and what it said when it fails", async () => {
    await expect(judged("console.error('no such model'); process.exit(3)")).rejects.toThrow(
      /reward program ".*judge\.cjs --mean" ended with exit code 3; it said: no such model/,
    );
    await expect(judged("console.log('about 7')")).rejects.toThrow(/printed "about 7", but a number is expected/);
    await expect(judged("console.log('')")).rejects.toThrow(/printed "", but a number is expected/);
    await expect(judged("setInterval(() => {}, 1000)", { timeout: 0.5 })).rejects.toThrow(/has not ended after 0\.5 s/);
    await expect(judged("for (;;) require('fs').writeSync(1, 'x'.repeat(4096))")).rejects.toThrow(
      /printed more than 65536 characters/,
    );
  });

  test("leaves no pictures behind", async () => {
    const before = (await readdir(tmpdir())).filter((name) => name.startsWith("alignprop-reward-"));
    await expect(judged("process.exit(1)")).rejects.toThrow(/exit code 1/);
    const after = (await readdir(tmpdir())).filter((name) => name.startsWith("alignprop-reward-"));
    expect(after.filter((name) => !before.includes(name))).toEqual([]);
  });

  test("that is not there is refused before anything runs", async () => {
    const settings = rewardSettings.parse({ name: "program", command: ["no-such-judge"] });
    await expect(openReward(settings, pathsOnly)).rejects.toThrow('reward program "no-such-judge": no such program');
  });
});
