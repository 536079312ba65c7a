"""Rewards, computed with the code of their publications: OpenCLIP for HPSv2, transformers for PickScore, YOLOS and DETR, timm's
ViT and transformers' BLIP text model for ImageReward. Each takes an image in 0 … 1 and includes the preprocessing."""

import json
import shutil
from pathlib import Path

import open_clip
import timm
import torch
from golden import GOLDENS, Tensors, differentiate, generator, randomize, write_golden, write_json
from image import CLIP_MEAN, CLIP_STD
from tiny_sd import REWARD_CLIP, TEXTS
from torch import nn
from torch.nn import functional as F
from transformers import (
    BertTokenizer,
    BlipTextConfig,
    BlipTextModel,
    CLIPModel,
    CLIPTokenizer,
    DetrConfig,
    DetrForObjectDetection,
    ResNetConfig,
    YolosConfig,
    YolosForObjectDetection,
)

PROMPTS = ["a photo of a cat", "two dogs and a horse!"]


def random_images(seed: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed))


def preprocess(image: torch.Tensor, size, mean, std) -> torch.Tensor:
    """Resizes as AlignProp does (bilinear, without antialiasing), and normalizes."""
    resized = F.interpolate(image, size=size, mode="bilinear", align_corners=False)
    per_channel = lambda values: torch.tensor(values, dtype=image.dtype)[:, None, None]
    return (resized - per_channel(mean)) / per_channel(std)


def round_to_float16(module: nn.Module) -> None:
    """Rounds the weights to float16, so that a float16 file holds them exactly."""
    module.half().float()


def write_reward(name: str, about: str, module: nn.Module, call, inputs: Tensors, seed: int, **facts) -> None:
    tensors, error = differentiate(module, call, inputs, wrt=["image"], seed=seed)
    write_golden(
        name,
        about,
        tensors,
        {
            "input.image": "pictures of 0 … 1 [b, 3, h, w]",
            "input.*": "what the text tower is fed",
            "output.*": "the reward [b]",
            "upstream.*": "gradient of the loss by the output of that name",
            "gradient.image": "gradient by input.image of the sum of all outputs times their upstreams",
        },
        float32_error=error,
        prompts=PROMPTS,
        **facts,
    )


def start(name: str):
    folder = GOLDENS / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def tokenize(prompts: list[str]) -> torch.Tensor:
    tokenizer = CLIPTokenizer.from_pretrained(REWARD_CLIP)
    return tokenizer(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids


def make_hps() -> None:
    folder = start("reward-hps")
    vocab = json.loads((REWARD_CLIP / "vocab.json").read_text())
    # Heads of 64 features, because the number of heads cannot be read from the tensors.
    model = open_clip.CLIP(
        embed_dim=16,
        vision_cfg=dict(image_size=24, patch_size=8, width=64, layers=2, head_width=64, mlp_ratio=0.5),
        text_cfg=dict(context_length=77, vocab_size=len(vocab), width=64, heads=1, layers=2, mlp_ratio=0.5),
    ).eval()
    model.requires_grad_(False)
    randomize(model, seed=201)
    round_to_float16(model)
    state = {f"module.{key}": value.half() for key, value in model.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state}, folder / "HPS.pt")
    for file in ["vocab.json", "merges.txt"]:
        shutil.copy(REWARD_CLIP / file, folder / file)

    ids = tokenize(PROMPTS)

    def call(x: Tensors) -> Tensors:
        images = model.encode_image(preprocess(x["image"], (24, 24), CLIP_MEAN, CLIP_STD), normalize=True)
        texts = model.encode_text(x["ids"], normalize=True)
        return {"rewards": (images * texts).sum(-1)}

    about = "HPSv2's graph: OpenCLIP's CLIP, saved in float16 with `module.` before its names under `state_dict`"
    write_reward("reward-hps", about, model, call, {"image": random_images(202, 16, 20), "ids": ids}, 203, open_clip=open_clip.__version__)


def make_pickscore() -> None:
    start("reward-pickscore")
    model = CLIPModel.from_pretrained(REWARD_CLIP).eval().requires_grad_(False)
    ids = tokenize(PROMPTS)

    def call(x: Tensors) -> Tensors:
        images = model.get_image_features(preprocess(x["image"], (24, 24), CLIP_MEAN, CLIP_STD)).pooler_output
        texts = model.get_text_features(x["ids"]).pooler_output
        unit = lambda y: y / y.norm(dim=-1, keepdim=True)
        return {"rewards": model.logit_scale.exp() * (unit(images) * unit(texts)).sum(-1)}

    about = "PickScore's graph on the CLIPModel of tiny-reward/clip"
    write_reward("reward-pickscore", about, model, call, {"image": random_images(212, 30, 24), "ids": ids}, 213)


PIECES = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789!?.,'-",
          *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789"), "cat", "dog", "horse", "photo", "of", "two", "and", "##s", "猫"]  # fmt: skip


class ImageReward(nn.Module):
    """Has the tensor names of the published file. BLIP's ViT is that of timm, its text model that of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.blip = nn.Module()
        self.blip.visual_encoder = timm.models.vision_transformer.VisionTransformer(
            img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=1, mlp_ratio=1, num_classes=0, global_pool=""
        )
        self.blip.text_encoder = BlipTextModel(
            BlipTextConfig(
                vocab_size=len(PIECES) + 2,  # [DEC] and [ENC], which are in no prompt
                hidden_size=64,
                encoder_hidden_size=64,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=1,
                max_position_embeddings=40,
                hidden_act="gelu",
                is_decoder=True,
            ),
            add_pooling_layer=False,
        )
        self.mlp = nn.Module()
        self.mlp.layers = nn.Sequential(
            nn.Linear(64, 16), nn.Dropout(0.2), nn.Linear(16, 8), nn.Dropout(0.2), nn.Linear(8, 8), nn.Dropout(0.1),
            nn.Linear(8, 4), nn.Linear(4, 1)
        )  # fmt: skip
        self.mean, self.std = 0.16717362830052426, 1.0333394966054072

    def forward(self, image, ids, mask):
        states = self.blip.visual_encoder(preprocess(image, (32, 32), CLIP_MEAN, CLIP_STD))
        read = self.blip.text_encoder(
            ids,
            attention_mask=mask,
            encoder_hidden_states=states,
            encoder_attention_mask=torch.ones(states.shape[:-1], dtype=torch.long),
            is_decoder=False,
        )
        return (self.mlp.layers(read.last_hidden_state[:, 0])[:, 0] - self.mean) / self.std


def make_image_reward() -> None:
    folder = start("reward-image-reward")
    model = ImageReward().eval().requires_grad_(False)
    randomize(model, seed=221)
    round_to_float16(model)
    torch.save({key: value.half() for key, value in model.state_dict().items()}, folder / "ImageReward.pt")
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    tokenizer = BertTokenizer.from_pretrained(folder)
    texts = [*TEXTS, "Cat's  DOGS\tand é?", "unknown ☃ [SEP] x", "catdogs horsess"]
    tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=35)
    given = tokenizer(PROMPTS, padding="max_length", truncation=True, max_length=35, return_tensors="pt")

    def call(x: Tensors) -> Tensors:
        return {"rewards": model(x["image"], x["ids"], x["mask"].long())}

    inputs = {"image": random_images(222, 40, 24), "ids": given.input_ids, "mask": given.attention_mask.float()}
    about = "ImageReward's graph, saved in float16 under the published file's names; and BERT's tokenizer on a small vocabulary"
    write_reward("reward-image-reward", about, model, call, inputs, 223,
                 tokenized=[{"text": t, "ids": i, "mask": m} for t, i, m in zip(texts, tokens.input_ids, tokens.attention_mask, strict=True)])  # fmt: skip


IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
LABELS = {0: "N/A", 1: "cat", 2: "dog"}


def write_detector(name: str, model: nn.Module, edges: tuple[int, int], processed: tuple[int, int], seed: int) -> None:
    """`edges`: shortest and longest edge in preprocessor_config.json. An image of 20x26 is resized to `processed`."""
    kind = type(model).__name__.replace("ForObjectDetection", "")
    write_json(
        GOLDENS / name / "preprocessor_config.json",
        {"image_processor_type": f"{kind}ImageProcessor", "size": {"shortest_edge": edges[0], "longest_edge": edges[1]},
         "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD},  # fmt: skip
    )

    def call(x: Tensors) -> Tensors:
        pixels = preprocess(x["image"], processed, IMAGENET_MEAN, IMAGENET_STD)
        probabilities = model(pixels).logits.softmax(-1)
        expected = probabilities[..., [1, 2]].sum((1, 2))
        return {"rewards": -(expected - 2).abs()}

    about = f"minus the distance from 2 of the expected number of cats and dogs that a {kind}ForObjectDetection sees"
    write_reward(name, about, model, call, {"image": random_images(seed + 1, 20, 26)}, seed + 2)


def make_yolos() -> None:
    for name, mid, seed in [("reward-yolos", True, 231), ("reward-yolos-tiny", False, 241)]:
        folder = start(name)
        config = YolosConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=[24, 40],
            patch_size=8,
            num_detection_tokens=5,
            use_mid_position_embeddings=mid,
            id2label=LABELS,
            label2id={label: i for i, label in LABELS.items()},
        )
        model = YolosForObjectDetection(config).eval().requires_grad_(False)
        randomize(model, seed=seed)
        model.save_pretrained(folder)
        write_detector(name, model, (32, 56), (32, 40), seed)


def tiny_timm_resnet(pretrained: bool = False, **options) -> nn.Module:
    """timm's ResNet-50 with smaller sizes. Its stem always has 64 channels."""
    sizes = dict(block=timm.models.resnet.Bottleneck, layers=(1, 2, 1, 2), channels=(4, 4, 8, 8))
    return timm.models.resnet._create_resnet("resnet50", pretrained, **sizes, **options)


def randomize_statistics(module: nn.Module, seed: int) -> None:
    """Randomizes frozen batch normalization, which has only buffers."""
    random = generator(seed)
    for name, part in sorted(module.named_modules()):
        if type(part).__name__ == "DetrFrozenBatchNorm2d":
            noise = torch.randn(4, *part.weight.shape, generator=random)
            part.weight.copy_(1 + 0.2 * noise[0])
            part.bias.copy_(0.2 * noise[1])
            part.running_mean.copy_(0.2 * noise[2])
            part.running_var.copy_((0.3 * noise[3]).exp())


def make_detr() -> None:
    own = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12, 16, 24], depths=[1, 2, 1, 1], layer_type="basic", out_features=["stage4"]
    )
    # The settings of a timm backbone as transformers 4 wrote them. The published files have this form.
    old = {"use_timm_backbone": True, "backbone": "resnet50", "backbone_config": None}
    cases = [
        ("reward-detr", {"use_timm_backbone": False, "backbone_config": own}, None, 251),
        ("reward-detr-timm", {"use_timm_backbone": True, "backbone": "resnet50"}, old, 261),
        ("reward-detr-dilated", {"use_timm_backbone": True, "backbone": "resnet50", "dilation": True}, None, 271),
    ]
    entrypoints = timm.models._registry._model_entrypoints
    published, entrypoints["resnet50"] = entrypoints["resnet50"], tiny_timm_resnet
    for name, backbone, rewritten, seed in cases:
        folder = start(name)
        config = DetrConfig(
            **backbone,
            d_model=16,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=24,
            decoder_layers=2,
            decoder_attention_heads=4,
            decoder_ffn_dim=20,
            num_queries=5,
            id2label=LABELS,
            label2id={label: i for i, label in LABELS.items()},
        )
        model = DetrForObjectDetection(config).eval().requires_grad_(False)
        randomize(model, seed=seed)
        randomize_statistics(model, seed=seed + 3)
        model.half().save_pretrained(folder)
        model.float()
        if rewritten:
            file = folder / "config.json"
            write_json(file, json.loads(file.read_text()) | rewritten)
        write_detector(name, model, (64, 90), (64, 83), seed)
    entrypoints["resnet50"] = published


HEAD = Path(__file__).resolve().parents[2] / "shared" / "data" / "sac+logos+ava1-l14-linearMSE.pth"


def make_aesthetic_head() -> None:
    """Scores of the published head, if its file is beside the project."""
    if not HEAD.exists():
        print("aesthetic-head: not changed, because the published file is missing")
        return
    state = torch.load(HEAD, map_location="cpu", weights_only=True)
    n = torch.arange(1, 769, dtype=torch.float64)
    x = torch.where(n % 2 == 1, n, -n)
    h = torch.stack([x, -x]) / x.norm()
    for layer in [0, 2, 4, 6, 7]:
        h = F.linear(h, state[f"layers.{layer}.weight"].double(), state[f"layers.{layer}.bias"].double())
    about = "scores of sac+logos+ava1-l14-linearMSE.pth for the embedding (1, -2, 3, … -768) / length, and for its negative"
    write_json(GOLDENS / "aesthetic-head" / "golden.json", {"about": about, "scores": h[:, 0].tolist()})


def make_rewards() -> None:
    make_aesthetic_head()
    make_hps()
    make_pickscore()
    make_image_reward()
    make_yolos()
    make_detr()


if __name__ == "__main__":
    torch.set_num_threads(1)
    make_rewards()
