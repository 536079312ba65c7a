/** Mutated config files give a valid configuration or an InputError. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, test } from "vitest";
import { ddimSteps, readSchedulerConfig } from "../../src/diffusion/ddim.js";
import { parseJson } from "../../src/io/json.js";
import { parseClipConfig, parseClipTextConfig } from "../../src/models/clip/config.js";
import { parseUnetConfig } from "../../src/models/unet/config.js";
import { parseVaeConfig } from "../../src/models/vae/config.js";
import { fuzz, LIMIT } from "./fuzz.js";
import { mutateJson } from "./mutate.js";

const GOLDENS = fileURLToPath(new URL("../goldens/", import.meta.url));

/** Throws if an accepted configuration contains a number that is not finite. */
function checkNumbers(value: unknown): void {
  if (typeof value === "number" && !Number.isFinite(value)) throw new Error(`${value} was accepted`);
  if (typeof value === "object" && value !== null) for (const inner of Object.values(value)) checkNumbers(inner);
}

const PARSERS: Record<string, readonly [file: string, parse: (json: unknown) => unknown]> = {
  "a U-Net's": [
    "tiny-sd/unet/config.json",
    (json) => {
      const config = parseUnetConfig(json);
      for (const { channels, heads, layers } of config.levels) {
        if (channels % config.normNumGroups !== 0) throw new Error(`${config.normNumGroups} groups of ${channels}`);
        if (!(heads >= 1 && layers >= 1)) throw new Error(`${heads} heads, ${layers} layers`);
      }
      if (config.upBlockTypes.length !== config.levels.length) throw new Error("levels without an up block");
      return config;
    },
  ],
  "a VAE's": ["tiny-sd/vae/config.json", (json) => parseVaeConfig(json)],
  "a text encoder's": ["tiny-sd/text_encoder/config.json", (json) => parseClipTextConfig(json)],
  "a CLIP's": ["tiny-reward/clip/config.json", (json) => parseClipConfig(json)],
  "a scheduler's": [
    "tiny-sd/scheduler/scheduler_config.json",
    (json) => {
      const config = readSchedulerConfig(json, "scheduler_config.json");
      return config.num_train_timesteps <= 10_000 ? [config, ddimSteps(config, 4)] : config;
    },
  ],
};

describe("configurations", () => {
  test.each(Object.entries(PARSERS))("%s", LIMIT, async (_, [file, parse]) => {
    const valid = JSON.parse(readFileSync(`${GOLDENS}${file}`, "utf8")) as unknown;
    await fuzz(
      3_7,
      (rng) => mutateJson(valid, rng),
      (json) => checkNumbers(parse(parseJson(json, "config.json"))),
    );
  });
});
