/** Selects the files of a repository in transformers' layout, which has one model at its top level. */
import { InputError } from "../../errors/index.js";
import { weightsAmong } from "../folder.js";
import type { Choose } from "./snapshot.js";

const CONFIGS =
  /^(config|preprocessor_config|tokenizer_config|special_tokens_map|added_tokens|vocab|tokenizer)\.json$|^(merges|vocab)\.txt$/;

/**
 * Selects the configurations, the vocabulary and the weights.
 *
 * @param model the model as the user gave it, for error messages
 */
export function modelFiles(model: string): Choose {
  return async (paths) => {
    const weights = weightsAmong(paths.filter((path) => !path.includes("/")));
    if (!paths.includes("config.json") || weights === undefined) {
      throw new InputError(
        "model-unsupported",
        `${model}: has no config.json with weights under a supported name beside it, so it is not a model in transformers' ` +
          "layout.",
        { model, missing: paths.includes("config.json") ? "weights" : "config.json" },
      );
    }
    return [...paths.filter((path) => CONFIGS.test(path)), ...weights];
  };
}

/** Selects the vocabulary of a BERT. */
export function vocabularyFiles(model: string): Choose {
  return async (paths) => {
    if (paths.includes("vocab.txt")) return ["vocab.txt"];
    throw new InputError("model-incomplete", `${model}: has no vocab.txt, the vocabulary of a BERT.`, {
      model,
      missing: "vocab.txt",
    });
  };
}
