/**
 * Makes the tokenizer of the embedded model: byte-pair encoding (Sennrich et al. 2016) over bytes, in the file format of CLIP's
 * tokenizer. Every word of the corpus becomes one token. Other text can be encoded as well, with more tokens.
 */
import { mkdir, writeFile } from "node:fs/promises";
import path from "node:path";

const START = "<|startoftext|>";
const END = "<|endoftext|>";
const END_OF_WORD = "</w>";

/** A printable character for each byte (Radford et al. 2019): the byte's own if that is printable, otherwise one from 256 on. */
function byteCharacters(): string[] {
  const isPrintable = (byte: number) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  const bytes = Array.from({ length: 256 }, (_, byte) => byte);
  const hidden = bytes.filter((byte) => !isPrintable(byte));
  const shown = bytes.filter(isPrintable);
  // CLIP lists the printable ones first.
  return [...shown.map((byte) => String.fromCodePoint(byte)), ...hidden.map((_, i) => String.fromCodePoint(256 + i))];
}

/**
 * The pairs to merge, by rank, until each word (lower-case ASCII) is one symbol. The most frequent pair is merged first; of
 * equally frequent ones, the first in alphabetical order.
 */
export function learnMerges(words: readonly string[]): [string, string][] {
  const spellings = [...new Set(words)].map((word) => {
    const letters = [...word];
    return [...letters.slice(0, -1), letters.at(-1) + END_OF_WORD];
  });
  const merges: [string, string][] = [];
  for (;;) {
    const counts = new Map<string, number>();
    for (const spelling of spellings) {
      for (let i = 1; i < spelling.length; i++) {
        const pair = `${spelling[i - 1]} ${spelling[i]}`;
        counts.set(pair, (counts.get(pair) ?? 0) + 1);
      }
    }
    const best = [...counts].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1))[0];
    if (!best) return merges;
    const [left, right] = best[0].split(" ") as [string, string];
    merges.push([left, right]);
    for (const spelling of spellings) {
      for (let i = 1; i < spelling.length; i++) {
        if (spelling[i - 1] === left && spelling[i] === right) spelling.splice(i - 1, 2, left + right);
      }
    }
  }
}

/** Writes the files of a CLIPTokenizer folder. Prompts are padded with the end token, as in Stable Diffusion 1. */
export async function writeTokenizer(folder: string, words: readonly string[], maxLength: number): Promise<void> {
  const merges = learnMerges(words);
  const bytes = byteCharacters();
  const tokens = [
    ...bytes,
    ...bytes.map((character) => character + END_OF_WORD),
    ...merges.map((pair) => pair.join("")),
    START,
    END,
  ];
  const special = { bos_token: START, eos_token: END, pad_token: END, unk_token: END };
  const config = {
    ...special,
    add_prefix_space: false,
    do_lower_case: true,
    errors: "replace",
    model_max_length: maxLength,
    tokenizer_class: "CLIPTokenizer",
  };
  const json = (content: unknown) => `${JSON.stringify(content, null, 1)}\n`;
  await mkdir(folder, { recursive: true });
  await writeFile(path.join(folder, "vocab.json"), json(Object.fromEntries(tokens.map((token, id) => [token, id]))));
  await writeFile(
    path.join(folder, "merges.txt"),
    ["#version: 0.2", ...merges.map((pair) => pair.join(" ")), ""].join("\n"),
  );
  await writeFile(path.join(folder, "tokenizer_config.json"), json(config));
  await writeFile(path.join(folder, "special_tokens_map.json"), json(special));
}
