/** What of a repository in transformers' layout, one model at its top, is needed to run it. */
import { InputError } from "../../errors/index.js";
import { weightsAmong } from "../folder.js";
import type { Choose } from "./snapshot.js";

const CONFIGS =
  /^(config|preprocessor_config|tokenizer_config|special_tokens_map|vocab|tokenizer)\.json$|^(merges|vocab)\.txt$/;

/** Configurations, vocabulary and weights. */
export function modelFiles(what: string): Choose {
  return async (paths) => {
    const weights = weightsAmong(paths.filter((path) => !path.includes("/")));
    if (!paths.includes("config.json") || weights === undefined) {
      throw new InputError(
        "hub-not-found",
        `${what}: has no config.json with weights of a known name beside it, so it is no model in transformers' layout.`,
      );
    }
    return [...paths.filter((path) => CONFIGS.test(path)), ...weights];
  };
}

/** BERT's vocabulary. */
export function vocabularyFiles(what: string): Choose {
  return async (paths) => {
    if (paths.includes("vocab.txt")) return ["vocab.txt"];
    throw new InputError("hub-not-found", `${what}: has no vocab.txt, the vocabulary of a BERT.`);
  };
}
