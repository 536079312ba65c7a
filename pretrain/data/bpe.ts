/**
 * Learns the embedded model's tokenizer: byte-pair encoding (Sennrich et al. 2016) over bytes, in the files of CLIP's
 * tokenizer. Merging goes on until every word of the corpus is one token; other text still encodes, in more tokens.
 */
import { mkdir, writeFile } from "node:fs/promises";
import path from "node:path";

const START = "<|startoftext|>";
const END = "<|endoftext|>";
const END_OF_WORD = "</w>";

/** A printable character for each byte (Radford et al. 2019): itself where it prints, else one from 256 on. */
function byteCharacters(): string[] {
  const prints = (byte: number) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  const bytes = Array.from({ length: 256 }, (_, byte) => byte);
  const hidden = bytes.filter((byte) => !prints(byte));
  const shown = bytes.filter(prints);
  // CLIP lists the printing ones first.
  return [...shown.map((byte) => String.fromCodePoint(byte)), ...hidden.map((_, i) => String.fromCodePoint(256 + i))];
}

/** Pairs to merge, in rank order, until each word (lower-case ASCII) is one symbol. Ties go to the first in the alphabet. */
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

/** The files of a CLIPTokenizer folder. Texts are padded with the end token, as Stable Diffusion 1 does. */
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
