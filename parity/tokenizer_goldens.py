"""Goldens for src/models/clip/tokenizer.ts: a tiny CLIP vocabulary, and prompts that transformers' CLIPTokenizer encodes with it.

    python parity/tokenizer_goldens.py      (needs: transformers; made with 5.23.0)

Writes src/models/clip/goldens/tokenizer.json: the vocabulary and merges (learned here from a few captions), the prompts,
and for each configuration the ids of every prompt, padded and truncated.
"""

import collections
import json
import pathlib
import re
import tempfile

from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

START, END = "<|startoftext|>", "<|endoftext|>"
CORPUS = """
a photo of a cat. a photo of two cats, in flat style, on a blue background. three horses and a monkey.
a dog's portrait; the dog isn't here. we're they've i'm she'll he'd don't can't it's
a detailed painting of a hippopotamus, cheetah, crocodile, lobster and octopus 4k 8k 100 2024 !! ... ?! (a:1.5) --
butterfly fish on the green grass naïve café über straße 猫の絵 кошка 🐱
"""
MERGES = 160

PROMPTS = [
    "",
    " ",
    "a photo of a cat",
    "A Photo OF a CAT",
    "  two   cats,\ton\n\na blue background  ",
    "a dog's portrait; the dog isn't here, we're they've i'm she'll he'd",
    "DON'T can'T it's' ''s 'stop",
    "hippopotamus!!! ... ?! (octopus:1.5), [flat] {style} -- a|b #1 @home 50% \\ / ~ ` ^ _under_score_",
    "4k 8k 100 2024 1234567890 3.14 1,000 ½ ² Ⅷ ٣",
    "naïve café über straße ÀÉÎÕÜ İstanbul ıspanak",
    "cafe\u0301 vs caf\u00e9, \u212b vs \u00c5",
    "ΟΔΥΣΣΕΥΣ σας Σ",
    "猫の絵, 고양이 кошка عربى हिन्दी ไทย",
    "🐱 🐱🐶 👩‍👩‍👧 🏳️‍🌈 ✈️ a🐙b",
    "line\u00a0break\u2003wide\u3000space\u200bzero\ufeffbom\u0085next\u2028line",
    "control \u0000 \u0001 \u007f bytes",
    "a <|endoftext|> cat <|startoftext|>dog<|endoftext|>",
    "<|ENDOFTEXT|> <|endoftext| > < |endoftext|>",
    "wow! a cat ! !!",
    "“curly” ‘quotes’ — dash… don’t",
    "x" * 300,
    ", ".join(f"{n} cats and {n} dogs" for n in range(20)),
    "🐱" * 40,
    "a photo of a cat on a blue background, in flat",
]


def learn_merges(corpus, count):
    """Byte-pair encoding (Sennrich et al. 2016): repeatedly merges the most frequent pair."""
    encode = bytes_to_unicode()
    words = collections.Counter(re.findall(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|[^\s\w]+", corpus.lower()))
    spelled = {}
    for word, times in words.items():
        letters = [encode[byte] for byte in word.encode()]
        letters[-1] += "</w>"
        spelled[tuple(letters)] = times
    merges = []
    for _ in range(count):
        pairs = collections.Counter()
        for letters, times in spelled.items():
            for pair in zip(letters, letters[1:]):
                pairs[pair] += times
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        merged = {}
        for letters, times in spelled.items():
            out, i = [], 0
            while i < len(letters):
                if letters[i : i + 2] == best:
                    out.append(letters[i] + letters[i + 1])
                    i += 2
                else:
                    out.append(letters[i])
                    i += 1
            merged[tuple(out)] = merged.get(tuple(out), 0) + times
        spelled = merged
    return merges


def added_token(content):
    """A special token as in the tokenizer_config.json of Stable Diffusion 1.5."""
    return {
        "__type": "AddedToken",
        "content": content,
        "lstrip": False,
        "normalized": True,
        "rstrip": False,
        "single_word": False,
    }


def main():
    merges = learn_merges(CORPUS, MERGES)
    characters = list(bytes_to_unicode().values())
    tokens = characters + [c + "</w>" for c in characters] + ["".join(pair) for pair in merges] + [START, END]
    vocab = {token: i for i, token in enumerate(tokens)}
    assert len(vocab) == len(tokens)
    # Stable Diffusion 1 pads with the end token. Version 2 pads with "!", which is therefore a special token.
    special = {
        "sd1": {"bos_token": added_token(START), "eos_token": added_token(END), "unk_token": added_token(END), "pad_token": END},
        "sd2": {"bos_token": added_token(START), "eos_token": added_token(END), "unk_token": END, "pad_token": "!"},
    }
    configurations = []
    for name, length in [("sd1", 77), ("sd2", 32)]:
        config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": length, **special[name]}
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / "vocab.json").write_text(json.dumps(vocab))
            (root / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n")
            (root / "tokenizer_config.json").write_text(json.dumps(config))
            (root / "special_tokens_map.json").write_text(json.dumps(special[name]))
            tokenizer = CLIPTokenizer.from_pretrained(root)
        assert tokenizer.model_max_length == length
        ids = tokenizer(PROMPTS, padding="max_length", truncation=True)["input_ids"]
        whole = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in PROMPTS]
        configurations.append(
            {
                "name": name,
                "config": config,
                "special_tokens_map": special[name],
                "ids": ids,
                "lost": [
                    tokenizer.decode(content[length - 2 :]) if len(content) > length - 2 else None for content in whole
                ],
            }
        )
    golden = {
        "vocab": vocab,
        "merges": [" ".join(pair) for pair in merges],
        "prompts": PROMPTS,
        "configurations": configurations,
    }
    target = pathlib.Path(__file__).parent.parent / "src/models/clip/goldens/tokenizer.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
    print(f"{target.relative_to(pathlib.Path.cwd())}: {len(vocab)} tokens, {len(PROMPTS)} prompts, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
