import type { ClipTokenizer } from "./tokenizer.js";

/** Warns about each prompt that is longer than `reader`, such as "the text encoder", accepts. */
export function truncationWarnings(
  tokenizer: Pick<ClipTokenizer, "encode" | "maxLength">,
  prompts: Iterable<string>,
  reader: string,
): string[] {
  return [...new Set(prompts)].flatMap((prompt) => {
    const { truncated } = tokenizer.encode(prompt);
    const start = prompt.length > 60 ? `${prompt.slice(0, 57)}…` : prompt;
    return truncated === undefined
      ? []
      : [
          `the prompt "${start}" is longer than the ${tokenizer.maxLength} tokens of ${reader}; ` +
            `its end is left out: "${truncated}"`,
        ];
  });
}
