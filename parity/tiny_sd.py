"""A whole Stable Diffusion folder and a whole aesthetic reward, with random weights and small enough to check in."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from golden import GOLDENS, normal, randomize, storable, write_json
from image import CLIP_MEAN, CLIP_STD
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

MODEL = GOLDENS / "tiny-sd"
REWARD = GOLDENS / "tiny-reward"
REWARD_CLIP = REWARD / "clip"
REWARD_HEAD = REWARD / "aesthetic" / "model.safetensors"

START, END = "<|startoftext|>", "<|endoftext|>"
PAIRS = ["c a", "ca t</w>", "d o", "do g</w>", "h o", "ho r", "s e</w>", "hor se</w>"]
MERGES = [tuple(pair.split()) for pair in PAIRS]

TEXTS = [
    "",
    "a photo of a cat",
    "Two  DOGS and 12 horses!",
    "the cat's paw, isn't it?",
    "ein Häschen – naïve ☃ 猫",
    "horse " * 100,
]


def make_tiny_sd() -> None:
    vocab = vocabulary()
    make_model(text_config(vocab), vocab)
    make_reward(vocab, REWARD)
    print("tiny-reward")


def text_config(vocab: dict[str, int]) -> dict:
    return dict(
        vocab_size=len(vocab),
        hidden_size=12,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=8,
        bos_token_id=vocab[START],
        eos_token_id=vocab[END],
    )


def make_model(text: dict, vocab: dict[str, int]) -> None:
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=[8, 8, 8],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        layers_per_block=1,
        norm_num_groups=2,
        cross_attention_dim=12,
        attention_head_dim=2,
    )
    vae = AutoencoderKL(
        sample_size=32,
        block_out_channels=[8, 8, 8],
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        layers_per_block=1,
        norm_num_groups=2,
        scaling_factor=0.8,
    )
    text_encoder = CLIPTextModel(CLIPTextConfig(**text, hidden_act="quick_gelu"))
    for seed, module in enumerate([unet, vae, text_encoder], start=71):
        randomize(module, seed)

    shutil.rmtree(MODEL, ignore_errors=True)
    StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=CLIPTokenizer(vocab=vocab, merges=MERGES, model_max_length=77),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            clip_sample=False,
            set_alpha_to_one=False,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(MODEL)
    # Published folders have CLIP's tokenizer as vocab.json and merges.txt, and tensor names that begin with `text_model.`.
    save_tokenizer(MODEL / "tokenizer", vocab)
    stored = {f"text_model.{name}": x for name, x in text_encoder.state_dict().items()}
    save_file(storable(stored), MODEL / "text_encoder" / "model.safetensors", metadata={"format": "pt"})

    tokenizer = StableDiffusionPipeline.from_pretrained(MODEL).tokenizer
    ids = tokenizer(TEXTS, padding="max_length", max_length=77, truncation=True).input_ids
    write_json(
        MODEL / "golden.json",
        {
            "about": "a Stable Diffusion folder with random weights: 8x8 latents, 32x32 pixels, 77 tokens",
            "tokenized": [{"text": text, "input_ids": row} for text, row in zip(TEXTS, ids, strict=True)],
        },
    )
    print(f"tiny-sd: {len(TEXTS)} prompts")


def make_reward(vocab: dict[str, int], folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """Writes the folders of an aesthetic reward. Returns the arguments of `alignprop.Aesthetic`."""
    clip_folder, head_file = folder / "clip", folder / "aesthetic" / "model.safetensors"
    clip = CLIPModel(
        CLIPConfig(
            text_config=text_config(vocab) | dict(hidden_act="quick_gelu"),
            vision_config=dict(
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                image_size=24,
                patch_size=8,
                projection_dim=8,
                hidden_act="quick_gelu",
            ),
            projection_dim=8,
        )
    )
    randomize(clip, seed=81 + seed)
    shutil.rmtree(folder, ignore_errors=True)
    clip.save_pretrained(clip_folder)
    save_tokenizer(clip_folder, vocab)
    write_json(
        clip_folder / "preprocessor_config.json",
        {
            "image_processor_type": "CLIPImageProcessor",
            "crop_size": {"height": 24, "width": 24},
            "size": {"shortest_edge": 24},
            "image_mean": CLIP_MEAN,
            "image_std": CLIP_STD,
        },
    )

    widths = [8, 16, 8, 8, 4, 1]
    head = {}
    for i, (layer, inputs, outputs) in enumerate(zip([0, 2, 4, 6, 7], widths, widths[1:], strict=False)):
        head[f"layers.{layer}.weight"] = 2 * normal(90 + seed + i, outputs, inputs) / inputs**0.5
        head[f"layers.{layer}.bias"] = 0.2 * normal(100 + seed + i, outputs)
    head["layers.7.bias"] += 16  # so that some rewards are above the target of the loss, and some below
    head_file.parent.mkdir(parents=True)
    save_file(head, head_file, metadata={"format": "pt"})
    write_json(head_file.parent / "config.json", {"widths": widths})
    write_json(
        folder / "golden.json",
        {
            "about": "an aesthetic reward with random weights: clip/ is a CLIPModel folder, aesthetic/ the head on its "
            "image embedding"
        },
    )
    return clip_folder, head_file


def vocabulary() -> dict[str, int]:
    """In the order of CLIP: bytes, bytes at the end of a word, merges, start and end token."""
    letters = list(bytes_to_unicode().values())
    words = letters + [f"{x}</w>" for x in letters] + [a + b for a, b in MERGES] + [START, END]
    return {word: i for i, word in enumerate(words)}


def save_tokenizer(folder: Path, vocab: dict[str, int], pad: str = END) -> None:
    """Writes the files of openai/clip-vit-large-patch14. For OpenCLIP, `pad` is "!"."""
    for file in folder.glob("tokenizer*"):
        file.unlink()
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False) + "\n")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in MERGES))
    special = {"bos_token": START, "eos_token": END, "pad_token": pad, "unk_token": END}
    write_json(folder / "special_tokens_map.json", special)
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **special},
    )
