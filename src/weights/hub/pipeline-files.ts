/** Selects the files of a repository that a run needs: no safety checker, and each weight in one format only. */
import { z } from "zod";
import { InputError } from "../../errors/index.js";
import { readJson } from "../../io/json.js";
import { weightsAmong } from "../folder.js";
import { inputChannels, NOT_TEXT_TO_IMAGE } from "../look/tensors.js";
import type { Choose } from "./snapshot.js";

const INDEX = "model_index.json";
const UNET_CLASS = "UNet2DConditionModel";
const UNET_CONFIG = "unet/config.json";
const unetConfig = z.looseObject({ in_channels: z.number().default(4), out_channels: z.number().default(4) });
const modelIndex = z.looseObject({ _class_name: z.string(), unet: z.unknown().optional() });

const WITH_WEIGHTS = ["unet", "vae", "text_encoder", "text_encoder_2"];
const CONFIGS =
  /^(config|scheduler_config|tokenizer_config|special_tokens_map|added_tokens|vocab|tokenizer)\.json$|^merges\.txt$/;

/**
 * Selects the files of a model in the diffusers layout.
 *
 * @param model the model as the user gave it, for error messages
 * @param options.weights false for the configurations alone
 */
export function pipelineFiles(model: string, { weights = true }: { weights?: boolean } = {}): Choose {
  return async (paths, fetch) => {
    if (!paths.includes(INDEX)) {
      const single = paths.filter((path) => /^[^/]+\.(safetensors|ckpt)$/.test(path));
      const suggestion = single[0] === undefined ? undefined : `${model}/${single[0]}`;
      const hint = suggestion === undefined ? "" : ` It has single files: give one of them, such as ${suggestion}.`;
      throw new InputError(
        "model-unsupported",
        `model ${model}: has no ${INDEX}, so it is not a model in the diffusers layout.${hint}`,
        { model, missing: INDEX, suggestion },
      );
    }
    const index = await readJson(await fetch(INDEX), modelIndex);
    const unet = Array.isArray(index.unet) ? index.unet[1] : undefined;
    if (unet !== UNET_CLASS) {
      throw new InputError(
        "model-unsupported",
        `model ${model}: is a ${index._class_name}. The supported models are Stable Diffusion 1.x, 2.x and XL, whose index ` +
          `names a unet of class ${UNET_CLASS}.`,
        { model, found: index._class_name, expected: UNET_CLASS },
      );
    }
    if (paths.includes(UNET_CONFIG)) {
      // Before gigabytes of weights are downloaded.
      const { in_channels, out_channels } = await readJson(await fetch(UNET_CONFIG), unetConfig);
      const use = inputChannels(in_channels, out_channels);
      if (use !== undefined) {
        throw new InputError("model-unsupported", `model ${model}: is ${use}. ${NOT_TEXT_TO_IMAGE}`, {
          model,
          component: "unet",
          found: in_channels,
          expected: out_channels,
        });
      }
    }
    const inFolder = (folder: string) =>
      paths.filter((path) => path.startsWith(`${folder}/`)).map((path) => path.slice(folder.length + 1));
    const chosen = [INDEX];
    for (const folder of [...WITH_WEIGHTS, "tokenizer", "tokenizer_2", "scheduler"]) {
      const names = inFolder(folder);
      if (names.length === 0) continue;
      const split = names.includes("vocab.json") && names.includes("merges.txt");
      const configs = names.filter((name) => CONFIGS.test(name) && !(split && name === "tokenizer.json"));
      const files = weights && WITH_WEIGHTS.includes(folder) ? weightsAmong(names) : [];
      if (files === undefined) {
        throw new InputError(
          "model-incomplete",
          `model ${model}: its ${folder}/ has no weights under a supported name, or lacks some of their shards.`,
          { model, component: folder, missing: "weights" },
        );
      }
      chosen.push(...[...configs, ...files].map((name) => `${folder}/${name}`));
    }
    return chosen;
  };
}

/** Selects CLIP's vocabulary, in a repository of the tokenizer alone or of a whole pipeline. */
export function tokenizerFiles(model: string): Choose {
  return async (paths) => {
    for (const folder of ["", "tokenizer/"]) {
      for (const names of [["vocab.json", "merges.txt"], ["tokenizer.json"]]) {
        if (!names.every((name) => paths.includes(folder + name))) continue;
        return [...names, "added_tokens.json"].map((name) => folder + name).filter((name) => paths.includes(name));
      }
    }
    throw new InputError(
      "model-incomplete",
      `model ${model}: has no tokenizer: neither vocab.json with merges.txt nor tokenizer.json.`,
      { model, missing: "tokenizer", expected: ["vocab.json", "merges.txt", "tokenizer.json"] },
    );
  };
}
