"""Writes files with torch.save, in both of its layouts: `python parity/pytorch_files.py`.

    state_dict.pt, legacy.pt, protocol-5.pt   one state_dict with every element type and kind of view
    expected.safetensors                      its tensors, contiguous
    training.ckpt                             a checkpoint of a training run: the weights under "state_dict", and other
                                              entries that trainers add
    tiny.pth, compressed.pth                  the same tensors; the second zip is compressed, which torch.save never does
    golden.json                               plain values in each protocol of pickles

The legacy layout names storages by their addresses, so legacy.pt differs from run to run.
"""

import argparse
import base64
import io
import pickle
import sys
import types
import zipfile
from collections import Counter, OrderedDict, defaultdict

import numpy
import torch
from golden import GOLDENS, normal, versions, write_json
from safetensors.torch import save_file

FOLDER = GOLDENS / "pytorch"


def state_dict() -> OrderedDict:
    base = normal(1, 4, 6)
    module = torch.nn.Linear(3, 2)
    with torch.no_grad():
        module.weight.copy_(normal(2, 2, 3))
        module.bias.copy_(normal(3, 2))
    tensors = module.state_dict()  # an OrderedDict with an attribute, _metadata
    tensors["parameter"] = torch.nn.Parameter(normal(4, 2))
    for seed, dtype in enumerate((torch.float16, torch.bfloat16, torch.float64)):
        tensors[str(dtype).removeprefix("torch.")] = normal(10 + seed, 2, 3).to(dtype)
    for dtype in (torch.int64, torch.int32, torch.int8):
        tensors[str(dtype).removeprefix("torch.")] = torch.tensor([[1, -2, 3]], dtype=dtype)
    tensors["uint8"] = torch.tensor([0, 1, 255], dtype=torch.uint8)
    tensors["bool"] = torch.tensor([True, False, True])
    tensors["scalar"] = torch.tensor(3.5)
    tensors["empty"] = torch.zeros(0, 3)
    tensors["views.base"] = base
    tensors["views.rows"] = base[1:3]
    tensors["views.transposed"] = base.T
    tensors["views.corner"] = base[1:3, 2:5]
    tensors["views.every_other"] = base[:, ::2]
    tensors["views.repeated"] = base[0].expand(3, 6)
    tensors["channels_last"] = normal(5, 2, 3, 4, 5).to(memory_format=torch.channels_last)
    return tensors


def stand_in(module: str, name: str, base: type = object) -> type:
    """A class in place of one whose package need not be installed, because a pickle contains only its name."""
    parts = module.split(".")
    for i in range(len(parts)):
        path = ".".join(parts[: i + 1])
        sys.modules.setdefault(path, types.ModuleType(path))
    made = type(name, (base,), {"__module__": module})
    setattr(sys.modules[module], name, made)
    return made


def training_checkpoint(weights: OrderedDict) -> dict:
    callback = stand_in("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
    settings = stand_in("pytorch_lightning.utilities.parsing", "AttributeDict", dict)
    parameter = torch.nn.Parameter(normal(6, 3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones(3)
    optimizer.step()
    counts = defaultdict(int)
    counts["seen"] = 3
    return {
        "epoch": 12,
        "global_step": 2**40,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": weights,
        "callbacks": {callback: {"monitor": "val/loss", "best_model_score": torch.tensor(0.25), "best": float("inf")}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [{"milestones": Counter([3, 3, 5]), "last_lr": [1e-4], "counts": counts}],
        "hyper_parameters": settings(lr=1e-4, betas=(0.9, 0.999), args=argparse.Namespace(seed=23)),
        "random": {"numpy": numpy.arange(3), "state": b"\x00\xff", "seed": 2**100},
        "scale": numpy.float64(0.18215),
        "tags": {"a"},
        "dtype": torch.float16,
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
    }


# Pickled in every protocol. The tests have the same value in TypeScript.
PLAIN = {
    "none": None,
    "booleans": [True, False],
    "integers": [0, 255, 65535, -1, 2**31, -(2**40), 2**70, -(2**70)],
    "floats": [0.1, -1e300, float("inf"), float("nan")],
    "text": "wéight 猫 🐈\nline",
    "bytes": b"\x00\xff",
    "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    "set": {1, 2},
    "dict": {"a": {}, 3: []},
}


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    weights = state_dict()
    save_file({name: x.detach().contiguous().clone() for name, x in weights.items()}, FOLDER / "expected.safetensors")
    torch.save(weights, FOLDER / "state_dict.pt")
    torch.save(weights, FOLDER / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(weights, FOLDER / "protocol-5.pt", pickle_protocol=5)
    torch.save(training_checkpoint(weights), FOLDER / "training.ckpt")
    buffer = io.BytesIO()
    torch.save({"weight": normal(7, 2, 3), "bias": normal(8, 2).half()}, buffer)
    (FOLDER / "tiny.pth").write_bytes(buffer.getvalue())
    with zipfile.ZipFile(buffer) as plain, zipfile.ZipFile(FOLDER / "compressed.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(zipfile.ZipInfo(name), plain.read(name), zipfile.ZIP_DEFLATED)
    plain = {str(protocol): base64.b64encode(pickle.dumps(PLAIN, protocol)).decode() for protocol in range(6)}
    write_json(FOLDER / "golden.json", {"about": "What parity/pytorch_files.py says.", "plain": plain, "made_with": versions()})


if __name__ == "__main__":
    main()
