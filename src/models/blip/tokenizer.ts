import { join } from "node:path";
import { Tokenizer } from "@huggingface/tokenizers";
import { InputError } from "../../errors/index.js";
import { readText } from "../../io/files.js";

/**
 * BERT's tokenizer (Devlin et al. 2018, section 3): lower-cases words, strips accents, and splits words into pieces of
 * a fixed vocabulary.
 */
export interface BertTokenizer {
  readonly maxLength: number;
  /** One more than the highest id. */
  readonly vocabularySize: number;
  /** `mask` is 1 for tokens and 0 for padding; `truncated` is the end of the text that did not fit. */
  encode(text: string): { readonly ids: number[]; readonly mask: number[]; readonly truncated: string | undefined };
}

/** A bound for wrong files. BERT's vocabulary has 232 kB. */
const MAX_BYTES = 8 * 2 ** 20;

/**
 * Opens the tokenizer in a folder with vocab.txt, which has one piece per line; the line number is the id, from 0.
 * Every text is encoded as `maxLength` ids.
 * @throws InputError if the file cannot be read, or if a special token is missing
 */
export async function openBertTokenizer(folder: string, maxLength: number): Promise<BertTokenizer> {
  const path = join(folder, "vocab.txt");
  const pieces = (await readText(path, MAX_BYTES)).replace(/\r?\n$/, "").split(/\r?\n/);
  const ids = new Map(pieces.map((piece, id) => [piece, id]));
  const special = (token: string): number => {
    const id = ids.get(token);
    if (id === undefined)
      throw new InputError(
        "file-malformed",
        `${path}: has no token ${token}. It must be BERT's vocabulary with one piece per line.`,
        { path, token },
      );
    return id;
  };
  const [padding, start, end] = [special("[PAD]"), special("[CLS]"), special("[SEP]")];
  const tokenizer = new Tokenizer(
    {
      added_tokens: ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].map((content) => ({
        content,
        id: special(content),
        special: true,
        normalized: false,
      })),
      normalizer: {
        type: "BertNormalizer",
        clean_text: true,
        handle_chinese_chars: true,
        strip_accents: null,
        lowercase: true,
      },
      pre_tokenizer: { type: "BertPreTokenizer" },
      model: {
        type: "WordPiece",
        vocab: Object.fromEntries(ids),
        unk_token: "[UNK]",
        continuing_subword_prefix: "##",
        max_input_chars_per_word: 100,
      },
      post_processor: null,
      decoder: { type: "WordPiece", prefix: "##", cleanup: true },
    },
    { unk_token: "[UNK]", clean_up_tokenization_spaces: true },
  );
  return {
    maxLength,
    vocabularySize: pieces.length,
    encode(text) {
      const content = tokenizer.encode(text, { add_special_tokens: false }).ids;
      const kept = content.slice(0, maxLength - 2);
      const row = [start, ...kept, end];
      const rest = new Array<number>(maxLength - row.length);
      return {
        ids: [...row, ...rest.fill(padding)],
        mask: Array.from({ length: maxLength }, (_, i) => (i < row.length ? 1 : 0)),
        truncated: content.length > kept.length ? tokenizer.decode(content.slice(kept.length)) : undefined,
      };
    },
  };
}
