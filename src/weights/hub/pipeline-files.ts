/** What of a repository a run needs: no safety checker, no second copy of the weights in another form. */
import { z } from "zod";
import { InputError } from "../../errors/index.js";
import { readJson } from "../../io/json.js";
import { weightsAmong } from "../folder.js";
import type { Choose } from "./snapshot.js";

const INDEX = "model_index.json";
const modelIndex = z.looseObject({ _class_name: z.string(), unet: z.unknown().optional() });

const WEIGHED = ["unet", "vae", "text_encoder", "text_encoder_2"];
const CONFIGS = /^(config|scheduler_config|tokenizer_config|special_tokens_map|vocab|tokenizer)\.json$|^merges\.txt$/;

/** A model in the diffusers layout; without its weights where only its configurations are wanted. */
export function pipelineFiles(what: string, { weights = true }: { weights?: boolean } = {}): Choose {
  return async (paths, fetch) => {
    if (!paths.includes(INDEX)) {
      const single = paths.filter((path) => /^[^/]+\.(safetensors|ckpt)$/.test(path));
      const example = single[0] === undefined ? "" : ` It has single files: give one, such as ${what}/${single[0]}.`;
      throw new InputError(
        "hub-not-found",
        `model ${what}: has no ${INDEX}, so it is no model in the diffusers layout.${example}`,
      );
    }
    const index = await readJson(await fetch(INDEX), modelIndex);
    const unet = Array.isArray(index.unet) ? index.unet[1] : undefined;
    if (unet !== "UNet2DConditionModel") {
      throw new InputError(
        "hub-not-found",
        `model ${what}: is a ${index._class_name}; supported are Stable Diffusion 1.x, 2.x and XL, whose index names a unet of class UNet2DConditionModel.`,
      );
    }
    const inFolder = (folder: string) =>
      paths.filter((path) => path.startsWith(`${folder}/`)).map((path) => path.slice(folder.length + 1));
    const chosen = [INDEX];
    for (const folder of [...WEIGHED, "tokenizer", "tokenizer_2", "scheduler"]) {
      const names = inFolder(folder);
      if (names.length === 0) continue;
      const split = names.includes("vocab.json") && names.includes("merges.txt");
      const configs = names.filter((name) => CONFIGS.test(name) && !(split && name === "tokenizer.json"));
      const files = weights && WEIGHED.includes(folder) ? weightsAmong(names) : [];
      if (files === undefined)
        throw new InputError("hub-not-found", `model ${what}: its ${folder}/ has no weights of a known name.`);
      chosen.push(...[...configs, ...files].map((name) => `${folder}/${name}`));
    }
    return chosen;
  };
}

/** CLIP's vocabulary, from a repository of the tokenizer alone or of a whole pipeline. */
export function tokenizerFiles(what: string): Choose {
  return async (paths) => {
    for (const folder of ["", "tokenizer/"]) {
      for (const names of [["vocab.json", "merges.txt"], ["tokenizer.json"]]) {
        if (names.every((name) => paths.includes(folder + name))) return names.map((name) => folder + name);
      }
    }
    throw new InputError(
      "hub-not-found",
      `model ${what}: holds no tokenizer: neither vocab.json with merges.txt nor tokenizer.json.`,
    );
  };
}
