"""Writes the node tests of the ONNX project (package onnx, `onnx.backend.test`) as files that onnx_nodes.ts reads.

    pip install onnx==1.23.2
    python parity/onnx_nodes.py FOLDER
    npm run build && node dist/parity/onnx_nodes.js FOLDER

For each test, FOLDER has the model `<name>.onnx`. `tests.json` lists the tests with their tolerances, inputs and expected
outputs, and `data.bin` has their elements as float64. What float64 or an array cannot hold (strings, sequences, optionals,
complex numbers) has a null in place of an offset.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx.backend.test.case.node import collect_testcases

warnings.filterwarnings("ignore")


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tests = []
    with (folder / "data.bin").open("wb") as data:

        def store(value: object) -> dict:
            """The shape of an array, and where its elements are; their number is that of the shape."""
            if isinstance(value, onnx.TensorProto):
                value = onnx.numpy_helper.to_array(value)
            if not isinstance(value, np.ndarray | np.generic) or value.dtype.kind in "OSUc":
                return {"type": type(value).__name__ if not hasattr(value, "dtype") else str(value.dtype), "offset": None}
            array = np.asarray(value)
            offset = data.tell()
            data.write(array.astype(np.float64).tobytes())
            return {"type": str(array.dtype), "shape": list(array.shape), "offset": offset}

        for test in collect_testcases(None):
            onnx.save(test.model, folder / f"{test.name}.onnx")
            inputs, outputs = test.data_sets[0]
            names = [value.name for value in test.model.graph.input]
            tests.append(
                {
                    "name": test.name,
                    "rtol": test.rtol,
                    "atol": test.atol,
                    "inputs": {name: store(value) for name, value in zip(names, inputs, strict=False)},
                    "outputs": {
                        value.name: store(array) for value, array in zip(test.model.graph.output, outputs, strict=True)
                    },
                }
            )
    (folder / "tests.json").write_text(json.dumps({"version": onnx.__version__, "tests": tests}))
    print(f"{len(tests)} tests in {folder}")


main(Path(sys.argv[1]))
