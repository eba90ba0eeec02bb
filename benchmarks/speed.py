"""How fast photos become proposals, against this machine's own matrix product.

JPEG in, RLE JSON out, 640x480; times are taken in turns in one run, so only ratios are told. With
annotations the recall of each step of the way is measured too, on every third photo by id; by
OpenVINO for all that is float32, as the tests hold the engines to the same proposals.

    python benchmarks/speed.py [--annotations ANN.json --images DIR --calibrate DIR]
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

import sharpmask
from machine import store
from sharpmask.coco.reader import CocoFile, load_ground_truth
from sharpmask.compress.int8 import quantise
from sharpmask.defaults import MODEL
from sharpmask.engines.export import export
from sharpmask.engines.exported import ExportedEngine
from sharpmask.engines.load import load_engine
from sharpmask.engines.protocol import Engine
from sharpmask.engines.torch_engine import TorchEngine
from sharpmask.evaluation.run import evaluate_model
from sharpmask.images import list_images
from sharpmask.inference.batch import map_ordered, streams_for
from sharpmask.inference.proposer import Proposer
from sharpmask.models.pretrained import build, load

NAME = "sharpmask-nano"
COFFEE = Path(sharpmask.__file__).parent / "assets" / "coffee.jpg"
ROUNDS = 3
PHOTOS = 100
SIZES = (320, 640, 1280, 1920)
COUNTS = (10, 100, 300, 1000)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--annotations", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--calibrate", type=Path, default=COFFEE, help="photos for int8")
    arguments = parser.parse_args()
    photo = jpeg(640, 480)
    with tempfile.TemporaryDirectory() as temporary:
        whole, rounded = Path(temporary) / "openvino", Path(temporary) / "int8"
        openvino = export(load(NAME), whole, "openvino")
        quantise(whole, list_images([arguments.calibrate]), rounded)
        bfloat16, int8 = (ExportedEngine(f, bfloat16=True) for f in (whole, rounded))
    torch_engine = load_engine(NAME, "torch")
    way = {
        "torch, 500 windows refined": Proposer(torch_engine, num_candidates=500),
        "150 windows, spread": Proposer(torch_engine),
        "ONNX Runtime": Proposer(load_engine(NAME, "onnx")),
        "OpenVINO": Proposer(openvino),
        "OpenVINO, bfloat16": Proposer(bfloat16),
        "OpenVINO, int8": Proposer(int8),
        f"{MODEL}, ONNX Runtime": Proposer(engine="onnx"),
        f"{MODEL}, OpenVINO, bfloat16": Proposer(engine="openvino-bf16"),
    }
    seconds = in_turns(
        {"product": matrix_product(4096)}
        | {name: partial(run, proposer, photo) for name, proposer in way.items()}
    )
    relative = {name: value / seconds["product"] for name, value in seconds.items()}
    recall: dict[str, dict[str, float]] = {}
    if arguments.annotations:
        truth = third(load_ground_truth(arguments.annotations, photos=True))
        for name, proposer in (
            ("torch, 500 windows refined", Proposer(openvino, num_candidates=500)),
            *((name, way[name]) for name in way if name.startswith(("OpenVINO", MODEL))),
        ):
            masks = evaluate_model(truth, arguments.images, proposer).masks
            assert masks is not None
            recall[name] = masks.figures()
        recall["150 windows, spread"] = recall["ONNX Runtime"] = recall["OpenVINO"]
    results = {
        "config": f"{NAME}, 640x480, 7 scales, 100 proposals, JPEG in, RLE JSON out",
        "relative_to_product": relative,
        "product_s": seconds["product"],
        "mask_AR": recall,
        "steps_s": steps(bfloat16, photo),
        "one_pass": one_pass(bfloat16, photo),
        "resnet50": resnet50(photo),
        "folder": folder(photo),
        "cold_start_s": cold_start(photo),
        "installed_mb": {name: installed_mb(name) for name in ("torch", "openvino", "onnxruntime")},
        "curves": curves(bfloat16),
    }
    draw(results)
    store("speed", results)
    sys.path.append(str(Path(__file__).parents[1] / "docs"))
    print(import_module("figures").targets())  # what the docs show of it, beside the targets


def third(truth: CocoFile) -> CocoFile:
    """Every third photo by id."""
    images = sorted(truth.images, key=lambda image: image.id)[::3]
    return replace(truth, images=tuple(images))


def jpeg(width: int, height: int) -> bytes:
    """The bundled photo at a size."""
    file = io.BytesIO()
    Image.open(COFFEE).resize((width, height)).save(file, "JPEG", quality=90)
    return file.getvalue()


def run(proposer: Proposer, photo: bytes) -> str:
    """JPEG in, JSON out."""
    return json.dumps(proposer(Image.open(io.BytesIO(photo))).to_coco(1))


def matrix_product(size: int) -> Callable[[], torch.Tensor]:
    """A square float32 product, what the machine does best."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return lambda: a @ b


def in_turns(runs: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each; a busy moment of the machine falls on all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, function in runs.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return {name: median(values[1:]) for name, values in seconds.items()}  # the first warms up


def steps(engine: Engine, photo: bytes) -> dict[str, float]:
    """Seconds of the steps of one photo."""
    spent: dict[str, list[float]] = {}

    class Timed:
        """The engine, timing its calls."""

        name, geometry = engine.name, engine.geometry

        def __getattr__(self, step: str) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                start = time.perf_counter()
                result = getattr(engine, step)(*arguments)
                total[step] = total.get(step, 0.0) + time.perf_counter() - start
                return result

            return call

    for _ in range(ROUNDS + 1):
        total: dict[str, float] = {}
        start = time.perf_counter()
        image = np.asarray(Image.open(io.BytesIO(photo)).convert("RGB"))
        total["read"] = time.perf_counter() - start
        proposer = Proposer(Timed())
        start = time.perf_counter()
        proposals = proposer(image)
        total["scale, choose, rank, suppress"] = (
            time.perf_counter() - start - sum(v for k, v in total.items() if k != "read")
        )
        start = time.perf_counter()
        json.dumps(proposals.to_coco(1))
        total["encode RLE and JSON"] = time.perf_counter() - start
        for name, value in total.items():
            spent.setdefault(name, []).append(value)
    return {name: median(values[1:]) for name, values in spent.items()}


def one_pass(engine: Engine, photo: bytes) -> dict[str, float]:
    """What reading a photo at its largest scale alone could save at most.

    Windows of all sizes out of one feature pyramid (FastMask, FPN) need that pass too, and their
    own heads and necks besides, which are taken to cost nothing here.
    """
    proposer = Proposer(engine)
    image = np.asarray(Image.open(io.BytesIO(photo)))
    sizes = [engine.geometry.scaled_size(image.shape[:2], octave) for octave in proposer.octaves]
    scaled = [proposer.scale(image, size) for size in sizes]
    seconds = in_turns(
        {
            "pipeline": partial(run, proposer, photo),
            "all_scales": lambda: [engine.encode(pixels) for pixels in scaled],
            "largest_scale": partial(engine.encode, max(scaled, key=np.size)),
        }
    )
    saved = seconds["all_scales"] - seconds["largest_scale"]
    return {**seconds, "speedup_at_most": seconds["pipeline"] / (seconds["pipeline"] - saved)}


def resnet50(photo: bytes) -> dict[str, float]:
    """The paper's network and settings: the whole pipeline, its dense part, and the product."""
    torch.manual_seed(0)
    deepmask = {"model": "deepmask", "backbone": "resnet50"}
    model = build({"model": "sharpmask", "deepmask": deepmask})
    with tempfile.TemporaryDirectory() as folder:
        engine = export(model, Path(folder), "openvino")
    proposer = Proposer(engine, num_proposals=500)
    pixels = np.asarray(Image.open(io.BytesIO(photo)))
    with FlopCounterMode(display=False) as counter:
        reference = Proposer(TorchEngine(model, torch.device("cpu")))
        reference.levels(pixels)
    seconds = in_turns(
        {
            "product": matrix_product(4096),
            "dense": lambda: proposer.levels(pixels),
            "pipeline": partial(run, proposer, photo),
        },
        rounds=3,
    )
    rate = 2 * 4096**3 / seconds["product"]
    return {
        "dense_gflop": counter.get_total_flops() / 1e9,
        "dense_s": seconds["dense"],
        "pipeline_s": seconds["pipeline"],
        "pipeline_to_dense": seconds["pipeline"] / seconds["dense"],
        "dense_share_of_sgemm": counter.get_total_flops() / seconds["dense"] / rate,
    }


def folder(photo: bytes) -> dict[str, float]:
    """A folder of photos against the same photos one by one."""
    single = Proposer(load_engine(NAME))
    streams = streams_for(PHOTOS)
    shared = Proposer(load_engine(NAME, streams=streams))
    photos = [photo] * PHOTOS
    run(single, photo)
    run(shared, photo)
    start = time.perf_counter()
    for item in photos:
        run(single, item)
    one_by_one = time.perf_counter() - start
    resident = []
    start = time.perf_counter()
    for call in map_ordered(partial(run, shared), photos, streams):
        call.result()
        resident.append(resident_bytes())
    together = time.perf_counter() - start
    return {
        "photos": PHOTOS,
        "throughput_ratio": one_by_one / together,
        "s_per_photo": together / PHOTOS,
        "memory_growth_mb": (max(resident[PHOTOS // 2 :]) - max(resident[: PHOTOS // 2])) / 1e6,
    }


def resident_bytes() -> int:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def cold_start(photo: bytes) -> dict[str, float]:
    """Seconds of a fresh ``sharpmask propose`` on one photo, the exported form in the cache."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "photo.jpg"
        path.write_bytes(photo)
        command = [sys.executable, "-c", "from sharpmask.cli.main import app; app()"]
        command += ["propose", str(path), "--output", temporary, "--no-overlay", "--engine"]
        start = partial(subprocess.run, check=True, capture_output=True)
        return in_turns(
            {name: partial(start, [*command, name]) for name in ("openvino-bf16", "onnx", "torch")},
            rounds=3,
        )


def installed_mb(package: str) -> float:
    """Size of an installed package."""
    files = [path.locate() for path in metadata.files(package) or ()]
    return sum(Path(str(file)).stat().st_size for file in files) / 1e6


def curves(engine: Engine) -> dict[str, dict[str, float]]:
    """Seconds against the area of the photo, all of it read, and the number of proposals."""
    sizes = {
        str(size): partial(run, Proposer(engine, image_size=size), jpeg(size, size * 3 // 4))
        for size in SIZES
    }
    counts = {
        str(count): partial(run, Proposer(engine, num_proposals=count), jpeg(640, 480))
        for count in COUNTS
    }
    return {"longer_side": in_turns(sizes, rounds=2), "proposals": in_turns(counts, rounds=2)}


def draw(results: dict[str, Any]) -> None:
    """The way to the shipped speed, one bar a step, and the two curves."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    grid = figure.add_gridspec(2, 2)
    bars = figure.add_subplot(grid[0, :])
    steps = {name: v for name, v in results["relative_to_product"].items() if name != "product"}
    drawn = bars.barh(list(steps), list(steps.values()), color="tab:blue")
    labels = [f"{value:.2f}" for value in steps.values()]
    if results["mask_AR"]:
        labels = [
            f"{text}, AR@100 {100 * results['mask_AR'][name]['AR@100']:.1f}"
            for text, name in zip(labels, steps, strict=True)
        ]
    bars.bar_label(drawn, labels, padding=3)
    bars.invert_yaxis()
    bars.margins(x=0.3)
    bars.set_xlabel("time of a photo / time of a 4096x4096x4096 matrix product")
    area = figure.add_subplot(grid[1, 0], xlabel="megapixels", ylabel="s")
    sides = {int(side): s for side, s in results["curves"]["longer_side"].items()}
    area.plot([0.75 * side**2 / 1e6 for side in sides], list(sides.values()), "o-")
    count = figure.add_subplot(grid[1, 1], xlabel="proposals", ylabel="s")
    counts = results["curves"]["proposals"]
    count.plot([int(number) for number in counts], list(counts.values()), "o-")
    for axes in (area, count):
        axes.set_ylim(bottom=0)
    figure.savefig(Path(__file__).parents[1] / "docs" / "speed.png", dpi=80)


if __name__ == "__main__":
    main()
