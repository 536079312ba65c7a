"""Goldens for src/models/clip/tokenizer.ts: a tiny CLIP vocabulary, and prompts that transformers' CLIPTokenizer encodes with it.

    python parity/tokenizer_goldens.py      (needs: transformers; made with 5.23.0)

Writes src/models/clip/goldens/tokenizer.json: the vocabulary and merges (learned here from a few captions), the prompts,
for each configuration the ids of every prompt, padded and truncated, and the same for tokens that were added to the
tokenizer (textual inversion), in each of the files that can list them.
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

# Tokens as textual inversion adds them, and one that takes the spaces around it. The flags of the last differ.
ADDED = ["<foo>", "<Bar>", "sks", "<foo>_1", "<foo>_2"]
ADDED_PROMPTS = [
    "a <foo> cat",
    "a<foo>cat",
    "A <FOO> CAT",
    "<Bar> <bar> <BAR>",
    "sks SKS asksb tasks",
    "<foo>_1",
    "a photo of <foo>, <foo> and < foo >",
    "cat  <pin>  dog",
]

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


def spelled_out(tokenizer, prompt):
    """Textual inversions of several vectors, as TextualInversionLoaderMixin of diffusers replaces them in a prompt."""
    from diffusers.loaders import TextualInversionLoaderMixin

    return TextualInversionLoaderMixin._maybe_convert_prompt(None, prompt, tokenizer)


def added_tokens(vocab, merges):
    """The files of a tokenizer with added tokens, in the forms that libraries wrote over time, and the ids of prompts."""
    plain = {
        "vocab.json": vocab,
        "merges.txt": "#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n",
        "tokenizer_config.json": {"tokenizer_class": "CLIPTokenizer", "model_max_length": 20},
    }
    ids = {token: len(vocab) + i for i, token in enumerate(ADDED)}
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": True, "special": False}
    decoder = {str(id): {"content": token, **flags} for token, id in ids.items()}
    pin = {"content": "<pin>", **flags, "lstrip": True, "rstrip": True, "normalized": False, "special": True}
    decoder[str(len(vocab) + len(ADDED))] = pin
    forms = {
        "added_tokens.json": {**plain, "added_tokens.json": ids},
        "added_tokens_decoder": {
            **plain,
            "tokenizer_config.json": {**plain["tokenizer_config.json"], "added_tokens_decoder": decoder},
        },
    }
    results = []
    with tempfile.TemporaryDirectory() as root:
        for name, files in forms.items():
            folder = pathlib.Path(root) / name
            folder.mkdir()
            for file, content in files.items():
                (folder / file).write_text(content if isinstance(content, str) else json.dumps(content))
            tokenizer = CLIPTokenizer.from_pretrained(folder)
            if name == "added_tokens_decoder":
                tokenizer.save_pretrained(pathlib.Path(root) / "tokenizer.json")
                forms_of_now = pathlib.Path(root) / "tokenizer.json"
            results.append((name, {k: v for k, v in files.items() if k not in ("vocab.json", "merges.txt")}, tokenizer))
        now = json.loads((forms_of_now / "tokenizer.json").read_text())
        files = {
            "tokenizer.json": {"added_tokens": now["added_tokens"]},  # the test adds the model
            "tokenizer_config.json": json.loads((forms_of_now / "tokenizer_config.json").read_text()),
        }
        results.append(("tokenizer.json", files, CLIPTokenizer.from_pretrained(forms_of_now)))
    return [
        {
            "name": name,
            "files": files,
            "ids": [
                tokenizer(spelled_out(tokenizer, prompt), padding="max_length", truncation=True)["input_ids"]
                for prompt in ADDED_PROMPTS
            ],
        }
        for name, files, tokenizer in results
    ]


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
        "added_prompts": ADDED_PROMPTS,
        "added": added_tokens(vocab, merges),
    }
    target = pathlib.Path(__file__).parent.parent / "src/models/clip/goldens/tokenizer.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
    print(f"{target.relative_to(pathlib.Path.cwd())}: {len(vocab)} tokens, {len(PROMPTS)} prompts, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
