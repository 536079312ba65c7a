"""Reads the output of parity/trackers.ts with TensorBoard, MLflow's client and W&B's messages.

    python parity/check_trackers.py FOLDER RUN MLFLOW_URI

Prints a JSON list with the number of equal values. A difference is an error."""

import html
import io
import json
import pathlib
import re
import struct
import sys
import urllib.parse
import urllib.request
import zlib

import mlflow
import numpy as np
from google.protobuf.unknown_fields import UnknownFieldSet
from PIL import Image
from tensorboard import program
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.util import tensor_util
from wandb.proto import wandb_internal_pb2

folder, run, mlflow_uri = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
expected = json.loads((folder / "expected.json").read_text())["steps"]
evaluated = [step for step in expected if step["images"]]


def require(name, found, wanted):
    if found != wanted:
        raise SystemExit(f"{name}: found {found!r}, expected {wanted!r}")


def require_pixels(name, png, expected_image):
    image = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    require(f"{name}, size", list(image.shape), [expected_image["height"], expected_image["width"], 3])
    require(f"{name}, pixels", image.flatten().tolist(), expected_image["pixels"])


def row(by, scalars, images, captions):
    return {"by": by, "scalars": scalars, "images": images, "captions": captions, "steps": [s["step"] for s in expected]}


def unescaped(text):
    out, i = [], 0
    while i < len(text):
        i += text[i] == "\\"
        out.append(text[i])
        i += 1
    return html.unescape("".join(out))


def event_files():
    """Reads event files with TensorBoard's own reader."""
    sizes = {name: 0 for name in (event_accumulator.TENSORS, event_accumulator.SCALARS, event_accumulator.IMAGES)}
    events = event_accumulator.EventAccumulator(str(run / "tensorboard"), size_guidance=sizes)
    events.Reload()
    found = {}
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            require(f"{tag} at step {event.step} twice", (event.step, tag) in found, False)
            found[event.step, tag] = event.value
    for tag in events.Tags()["tensors"]:
        if events.SummaryMetadata(tag).plugin_data.plugin_name == "scalars":
            for event in events.Tensors(tag):
                require(f"{tag} at step {event.step} twice", (event.step, tag) in found, False)
                found[event.step, tag] = tensor_util.make_ndarray(event.tensor_proto).item()
    wanted = {(s["step"], tag): float(np.float32(v)) for s in expected for tag, v in s["scalars"].items()}
    require("scalars", found, wanted)

    tags = [t for t in events.Tags()["tensors"] if events.SummaryMetadata(t).plugin_data.plugin_name == "images"]
    images = captions = 0
    for i, tag in enumerate(sorted(tags)):
        metadata, series = events.SummaryMetadata(tag), events.Tensors(tag)
        require(f"{tag}, title", metadata.display_name, evaluated[0]["images"][i]["prompt"])
        require(f"{tag}, steps", [e.step for e in series], [s["step"] for s in evaluated])
        for event, step in zip(series, evaluated):
            width, height, png = event.tensor_proto.string_val
            image = step["images"][i]
            require(f"{tag}, size", [int(width), int(height)], [image["width"], image["height"]])
            require_pixels(tag, png, image)
            images += 1
    for event, step in zip(events.Tensors("captions"), evaluated, strict=True):
        table = np.vectorize(bytes.decode)(tensor_util.make_ndarray(event.tensor_proto))
        require("captions", [unescaped(c) for c in table[1:, 1]], [p["caption"] for p in step["images"]])
        require("captions, names", [f"pictures/{n}" for n in table[1:, 0]], sorted(tags))
        captions += len(step["images"])
    return row("TensorBoard's event reader", len(found), images, captions)


def tensorboard_pages():
    """Queries a running TensorBoard as its page does."""
    board = program.TensorBoard()
    board.configure(argv=[None, "--logdir", str(run), "--port", "0"])
    base = board.launch()

    def get(path, **query):
        with urllib.request.urlopen(f"{base}data/plugin/{path}?{urllib.parse.urlencode(query)}") as response:
            return response.read()

    tags = json.loads(get("scalars/tags"))
    require("runs", list(tags), ["tensorboard"])
    scalars = 0
    for tag in tags["tensorboard"]:
        points = [(step, value) for _, step, value in json.loads(get("scalars/scalars", tag=tag, run="tensorboard"))]
        wanted = [(s["step"], s["scalars"][tag]) for s in expected if tag in s["scalars"]]
        require(f"{tag}, steps", [s for s, _ in points], [s for s, _ in wanted])
        require(tag, np.float32([v for _, v in points]).tolist(), np.float32([v for _, v in wanted]).tolist())
        scalars += len(points)
    require("tags", sorted(tags["tensorboard"]), sorted({t for s in expected for t in s["scalars"]}))
    tagged = json.loads(get("images/tags"))["tensorboard"]
    images = 0
    for i, tag in enumerate(sorted(tagged)):
        about = tagged[tag]["description"]
        require(f"{tag}, description", f"seed {evaluated[0]['images'][i]['seed']}" in about, True)
        samples = json.loads(get("images/images", tag=tag, run="tensorboard", sample=0))
        for sample, step in zip(samples, evaluated, strict=True):
            require(f"{tag}, step", sample["step"], step["step"])
            png = get("images/individualImage", **dict(urllib.parse.parse_qsl(sample["query"])))
            require_pixels(tag, png, step["images"][i])
            images += 1
    texts = json.loads(get("text/text", tag="captions", run="tensorboard"))
    captions = 0
    for text, step in zip(texts, evaluated, strict=True):
        shown = html.unescape(re.sub(r"<[^>]*>", "\n", text["text"]))
        for image in step["images"]:
            require(f"{image['caption']} in {shown}", image["caption"] in shown, True)
            captions += 1
    return row("a running TensorBoard", scalars, images, captions)


def mlflow_server():
    mlflow.set_tracking_uri(mlflow_uri)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("parity")
    (found,) = client.search_runs([experiment.experiment_id])
    require("status", found.info.status, "FINISHED")
    require("name", found.info.run_name, run.name)
    require("parameter", found.data.params["lora.rank"], "4")
    scalars = 0
    wanted = {}
    for step in expected:
        for tag, value in step["scalars"].items():
            name = "".join(c if c.isascii() and (c.isalnum() or c in "_-. /") else "_" for c in tag)
            wanted.setdefault(name, []).append((step["step"], value))
    require("metrics", sorted(found.data.metrics), sorted(wanted))
    for name, points in wanted.items():
        history = sorted((m.step, m.value) for m in client.get_metric_history(found.info.run_id, name))
        require(name, history, points)
        scalars += len(points)
    files = {f.path for f in client.list_artifacts(found.info.run_id, "images")}
    images = captions = 0
    for step in evaluated:
        index = json.loads(mlflow.artifacts.load_text(f"{found.info.artifact_uri}/samples/step-{step['step']:06}/index.json"))
        require("captions", [p["caption"] for p in index], [p["caption"] for p in step["images"]])
        captions += len(index)
        for i, image in enumerate(step["images"]):
            (name,) = [f for f in files if f.startswith(f"images/{i:03}") and f"+step+{step['step']}+" in f and f.endswith(".png")]
            local = client.download_artifacts(found.info.run_id, name, str(folder))
            require_pixels(name, pathlib.Path(local).read_bytes(), image)
            images += 1
    top = {f.path for f in client.list_artifacts(found.info.run_id)}
    require("artifacts", top, {"adapter", "images", "report.html", "samples"})
    return row("MLflow's client", scalars, images, captions)


def wandb_records():
    """Parses the records of the offline run with W&B's message definitions."""
    (path,) = run.glob("wandb/offline-run-*/run-*.wandb")
    data, records, at, open_record = path.read_bytes(), [], 7, b""
    while at < len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        crc, length, kind = struct.unpack_from("<IHB", data, at)
        require("checksum", zlib.crc32(data[at + 6 : at + 7 + length]), crc)
        open_record += data[at + 7 : at + 7 + length]
        if kind in (1, 4):
            records.append(wandb_internal_pb2.Record.FromString(open_record))
            open_record = b""
        at += 7 + length
    require("unknown fields", sum(len(UnknownFieldSet(record)) for record in records), 0)
    history = [r.history for r in records if r.WhichOneof("record_type") == "history"]
    require("steps", [h.step.num for h in history], [s["step"] for s in expected])
    scalars = images = captions = 0
    for line, step in zip(history, expected):
        values = {item.nested_key[0]: json.loads(item.value_json) for item in line.item}
        shown = values.pop("pictures", {"filenames": [], "captions": []})
        own = {key: value for key, value in values.items() if not key.startswith("_")}
        require(f"step {step['step']}", own, step["scalars"])
        scalars += len(own)
        require("captions", shown["captions"], [p["caption"] for p in step["images"]])
        captions += len(shown["captions"])
        for name, image in zip(shown["filenames"], step["images"], strict=True):
            require_pixels(name, (path.parent / "files" / name).read_bytes(), image)
            images += 1
    return row("W&B's messages", scalars, images, captions)


print(json.dumps([event_files(), tensorboard_pages(), mlflow_server(), wandb_records()]))
sys.stdout.flush()
