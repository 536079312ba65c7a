"""Writes goldens of test/goldens/onnx as ONNX Runtime optimizes and quantizes them, into test/goldens/onnx-runtime.

    pip install onnx==1.23.2 onnxruntime==1.32.0 sympy
    python parity/onnx_variants.py [FOLDER]               FOLDER gets every variant of every golden

The name of a variant is `<golden>.<variant>.onnx`: `extended` and `basic` (levels of graph optimization), `fused` (the
optimizer for transformers), `qdq` and `qoperator` (static quantization in both formats), `dynamic` (dynamic quantization).
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.transformers.optimizer import optimize_model

GOLDENS = Path(__file__).parent.parent / "test" / "goldens"
CHECKED_IN = [
    ("vit.dynamo-21", "extended"),
    ("resnet.dynamo-21", "extended"),
    ("convnext.dynamo-21", "fused"),
    ("resnet.dynamo-21", "qdq"),
    ("mobilenet-v3.dynamo-21", "qoperator"),
    ("vit.dynamo-21", "dynamic"),
]


class Uniform(CalibrationDataReader):
    """A few images of uniform noise."""

    def __init__(self, model: Path) -> None:
        session = onnxruntime.InferenceSession(model)
        (image,) = session.get_inputs()
        rng = np.random.default_rng(0)
        shape = [1 if isinstance(extent, str) else extent for extent in image.shape]
        self.feeds = iter([{image.name: rng.random(shape, dtype=np.float32)} for _ in range(8)])

    def get_next(self) -> dict | None:
        return next(self.feeds, None)


def optimized(level: str):
    def write(model: Path, target: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level.upper()}")
        options.optimized_model_filepath = str(target)
        onnxruntime.InferenceSession(model, options)

    return write


def fused(model: Path, target: Path) -> None:
    optimize_model(str(model), model_type="vit", num_heads=0, hidden_size=0, opt_level=0).save_model_to_file(str(target))


def static(form: QuantFormat):
    def write(model: Path, target: Path) -> None:
        quantize_static(model, target, Uniform(model), quant_format=form, weight_type=QuantType.QInt8, per_channel=True)

    return write


VARIANTS = {
    "basic": optimized("basic"),
    "extended": optimized("extended"),
    "fused": fused,
    "qdq": static(QuantFormat.QDQ),
    "qoperator": static(QuantFormat.QOperator),
    "dynamic": quantize_dynamic,
}


def main(folder: Path | None) -> None:
    target = folder or GOLDENS / "onnx-runtime"
    target.mkdir(parents=True, exist_ok=True)
    goldens = [path.name.removesuffix(".onnx") for path in sorted((GOLDENS / "onnx").glob("*.onnx"))]
    wanted = [(golden, variant) for golden in goldens for variant in VARIANTS] if folder else CHECKED_IN
    for golden, variant in wanted:
        VARIANTS[variant](GOLDENS / "onnx" / f"{golden}.onnx", target / f"{golden}.{variant}.onnx")


main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
