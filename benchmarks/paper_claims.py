"""The papers' comparisons, at small scale: heads, refinement, ablations, all at one budget.

Trained rows have the YOLOX-Nano trunk, start from its file trained on COCO's boxes and see the same
number of scenes with the same seed; refinements stand on the head C trained here. The feature
pyramid learns all at once, for as much processor time as head C and the refinement on it take
together. Other rows have random weights: they show size, work and time. Those are the published
trunks (VGG-A, ResNet-50), and the concatenated form, which computes the same as the refactored one
(tests/models). Ranking is the paper's: by score alone, masks cut at .2 (the pyramid's at its own
threshold).

    python benchmarks/paper_claims.py --train ANN.json --val ANN.json --images DIR --init FILE \
        --runs DIR

Each row's run is a folder in --runs. A run that was stopped goes on; a finished one needs no more
than its model.safetensors. So ``--only-train`` may run elsewhere (on a GPU, say) and its folders be
brought here to be measured. Size, work and time are always those of this machine's CPU.
"""

import argparse
import json
import math
import re
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.utils.flop_counter import FlopCounterMode

from machine import store
from sharpmask.coco.annotations import CocoDataset, load_coco
from sharpmask.coco.reader import CocoFile, load_ground_truth
from sharpmask.evaluation.run import evaluate_model
from sharpmask.files import write_json
from sharpmask.geometry import OCTAVES, SHARPMASK_GEOMETRY
from sharpmask.inference.proposer import Proposer
from sharpmask.models.pretrained import (
    Model,
    PatchModel,
    build,
    load,
    load_backbone,
    load_trunk,
    read_metadata,
)
from sharpmask.models.pyramid import SharpMaskPyramid
from sharpmask.models.sharpmask import SharpMask
from sharpmask.training.origin import MODEL
from sharpmask.training.pyramid_stage import fit_pyramid, pyramid
from sharpmask.training.recipes import RECIPES, Recipe
from sharpmask.training.stages import train_stage, validator

TIMED_PROPOSALS = 500
TIMED_ROUNDS = 2
REFERENCE = "VGG-A, original head"
PYRAMID_STEPS = 1.25
"""Steps of the pyramid for one step of each of the two stages: as much processor time."""


@dataclass(frozen=True)
class Row:
    """One line of the table; ``trained`` rows share the budget, others have random weights."""

    name: str
    architecture: dict[str, Any]
    trained: bool


def deepmask(backbone: str, head: str) -> dict[str, Any]:
    bottleneck = 64 if backbone == "yolox_nano" else 128  # as in the shipped models
    options = {"backbone": backbone, "head": head, "bottleneck_channels": bottleneck}
    return {"model": "deepmask", **options}


def sharpmask(backbone: str, **options: Any) -> dict[str, Any]:
    return {"model": "sharpmask", "deepmask": deepmask(backbone, "c"), **options}


FIRST = "YOLOX-Nano, head C"
REFINEMENTS: dict[str, dict[str, Any]] = {
    "SharpMask, k = 32": {},
    "SharpMask, k = 16": {"mask_channels": 16, "skip_channels": 16},
    "SharpMask, k = 32, concatenated": {"form": "concatenated"},
    "SharpMask, k = 32 in every module (U-Net-like)": {"schedule": "constant"},
}
ABLATIONS: dict[str, dict[str, Any]] = {
    "no lateral convolutions (deconvolution)": {"lateral": False},
    "no vertical convolutions (skip net)": {"vertical": False},
}

ROWS = (
    Row(REFERENCE, deepmask("vgg11", "original"), trained=False),
    *(Row(f"ResNet-50, head {h.upper()}", deepmask("resnet50", h), trained=False) for h in "abc"),
    *(
        Row(f"ResNet-50, {name}", sharpmask("resnet50", **options), trained=False)
        for name, options in (REFINEMENTS | ABLATIONS).items()
    ),
    Row("YOLOX-Nano, original head", deepmask("yolox_nano", "original"), trained=True),
    *(Row(f"YOLOX-Nano, head {h.upper()}", deepmask("yolox_nano", h), trained=True) for h in "abc"),
    *(
        Row(f"YOLOX-Nano, {name}", sharpmask("yolox_nano", **options), "form" not in options)
        for name, options in (REFINEMENTS | ABLATIONS).items()
    ),
    Row("YOLOX-Nano, feature pyramid", {"model": "pyramid", "trunk": "yolox_nano"}, trained=True),
)

FORMS = [
    f"YOLOX-Nano, {form}"
    for form in ("original head", "head C", "SharpMask, k = 32", "feature pyramid")
]
"""From DeepMask as published first to the pyramid: what one budget makes of each."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--train", type=Path, action="append", required=True)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--init", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500, help="of each stage")
    parser.add_argument("--photos", type=int, help="of --val, spread evenly by id; all if left out")
    parser.add_argument("--device", default="auto", help="to train and measure on")
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare data")
    parser.add_argument("--only-train", action="store_true")
    arguments = parser.parse_args()
    data = load_coco(arguments.train, arguments.images)
    for row in ROWS:
        if row.trained:
            train_row(
                row, data, init=arguments.init, runs=arguments.runs, steps=arguments.steps,
                device=arguments.device, workers=arguments.workers,
            )  # fmt: skip
    if arguments.only_train:
        return
    validation = load_coco(arguments.val, arguments.images)
    truth = load_ground_truth(arguments.val, photos=True)
    images = sorted(truth.images, key=lambda image: image.id)
    spread = np.linspace(0, len(images) - 1, arguments.photos or len(images)).astype(int)
    truth = replace(truth, images=tuple(images[k] for k in spread))
    table: dict[str, dict[str, Any]] = {row.name: {} for row in ROWS}
    for row in filter(lambda row: row.trained, ROWS):
        if not finished(row, arguments.runs):
            print(f"{row.name}: not trained; its recall is left out", flush=True)
            continue
        measured = run_folder(row, arguments.runs) / f"measured-{len(truth.images)}.json"
        if not measured.exists():
            model = load(run_folder(row, arguments.runs))
            figures = measure(model, validation, truth, arguments.images, arguments.device)
            write_json(measured, figures)
        table[row.name] |= json.loads(measured.read_text())
        print(row.name, table[row.name], flush=True)
    for row in ROWS:
        table[row.name] |= describe(untrained(row))
    for name, ratio in relative_times().items():
        table[name]["relative_time"] = ratio
    store(
        "paper_claims",
        {
            "config": {
                "steps_of_each_stage": arguments.steps,
                "scenes_in_a_step": RECIPES["deepmask"]().batch_size,
                "photos": len(truth.images),
                "train": [path.name for path in arguments.train],
                "val": arguments.val.name,
                "timed": f"640x480, 7 scales, {TIMED_PROPOSALS} proposals, float32",
            },
            "rows": table,
        },
    )


def run_folder(row: Row, runs: Path) -> Path:
    """Where a row's training and its figures are kept."""
    return runs / re.sub(r"[^a-z0-9]+", "-", row.name.lower()).strip("-")


def untrained(row: Row) -> Model:
    """The row's model with random weights."""
    return build(row.architecture)


def proposer(model: Model, num_proposals: int, device: str = "cpu") -> Proposer:
    """Ranked and cut as the paper does, at scales that show objects of the same sizes to all."""
    options: dict[str, Any] = {"num_proposals": num_proposals, "device": device}
    if isinstance(model, PatchModel):
        shift = math.log2(model.geometry.object_size / SHARPMASK_GEOMETRY.object_size)
        options |= {"scales": [octave + shift for octave in OCTAVES], "mask_threshold": 0.2}
    return Proposer(model, quality_exponent=0, suppression=1, clean=False, **options)


def describe(model: Model) -> dict[str, Any]:
    """Parameters, and the work for one image."""
    model.requires_grad_(requires_grad=False)  # the counter hooks what could learn
    with FlopCounterMode(display=False) as counter:
        proposer(model, TIMED_PROPOSALS)(PHOTO)
    parameters = list(model.parameters())
    if isinstance(model, SharpMask):  # its DeepMask's own mask head is not used
        unused = {id(p) for p in model.deepmask.mask_head.parameters()}
        parameters = [p for p in parameters if id(p) not in unused]
    return {
        "parameters": sum(p.numel() for p in parameters),
        "gflop": counter.get_total_flops() / 1e9,
    }


def relative_times() -> dict[str, float]:
    """Seconds for one image over those of the reference, all rows in turns."""
    seconds: dict[str, list[float]] = {row.name: [] for row in ROWS}
    for row in ROWS * (TIMED_ROUNDS + 1):
        run = proposer(untrained(row), TIMED_PROPOSALS)
        run(PHOTO[:160, :160])
        start = time.perf_counter()
        run(PHOTO)
        seconds[row.name].append(time.perf_counter() - start)
    # The first round warms up.
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return {name: median / medians[REFERENCE] for name, median in medians.items()}


def recipe_of(row: Row, steps: int) -> Recipe:
    """The row's stage of training, ``steps`` long."""
    if row.architecture["model"] == "pyramid":
        recipe, steps = pyramid(), int(PYRAMID_STEPS * steps)
    else:
        recipe = RECIPES[row.architecture["model"]]()
    epoch = max(1, steps // 4)
    return replace(
        recipe, steps=steps, warmup_steps=steps // 10, epoch_steps=epoch, validate_every=epoch
    )


def train_row(
    row: Row,
    data: CocoDataset,
    *,
    init: Path,
    runs: Path,
    steps: int,
    device: str = "auto",
    workers: int = 1,
) -> None:
    """Train one row in its folder of ``runs``, unless it is finished there.

    Refinements need the finished run of ``FIRST`` beside theirs.

    Raises:
        ValueError: The folder holds a run of another recipe, or ``FIRST`` is missing.
        Stopped: After Ctrl-C or SIGTERM, when the state is saved.
    """
    recipe, output = recipe_of(row, steps), run_folder(row, runs)
    if finished(row, runs):
        if read_metadata(output)["recipe"] != asdict(recipe):
            raise ValueError(f"{output}: this run is finished, with another recipe; move it away")
        return
    torch.manual_seed(recipe.seed)
    model = untrained(row)
    fabric = Fabric(accelerator=device, devices=1, precision="bf16-mixed")
    common: dict[str, Any] = {
        "data": data, "recipe": recipe, "output": output, "fabric": fabric, "workers": workers,
    }  # fmt: skip
    if isinstance(model, SharpMaskPyramid):
        load_trunk(model.backbone, init)
        fit_pyramid(model, **common)
        return
    if isinstance(model, SharpMask):
        first = next(row for row in ROWS if row.name == FIRST)
        if not finished(first, runs):
            raise ValueError(f"{run_folder(first, runs)}: no finished run of {FIRST!r}")
        model.deepmask.load_state_dict(load(run_folder(first, runs)).state_dict())
    else:
        load_backbone(model.backbone, init)
    train_stage(model, validation=None, **common)


def finished(row: Row, runs: Path) -> bool:
    """Whether a row's model file says that all its steps are done."""
    folder = run_folder(row, runs)
    if not (folder / MODEL).exists():
        return False
    steps = read_metadata(folder)["steps"]
    return bool(steps["done"] == steps["of"])


def measure(
    model: Model, validation: CocoDataset, truth: CocoFile, images: Path, device: str
) -> dict[str, Any]:
    """Box and mask AR, boundary IoU; of windows of the papers' form also the IoU by patch."""
    evaluation = evaluate_model(truth, images, proposer(model, 1000, device))
    assert evaluation.masks is not None
    assert evaluation.boundary is not None
    figures: dict[str, Any] = {
        "box_AR": evaluation.boxes.figures(),
        "mask_AR": evaluation.masks.figures(),
        "boundary_iou": evaluation.boundary.boundary_iou,
    }
    if isinstance(model, PatchModel):
        fabric = Fabric(accelerator=device, devices=1)
        measured = validator(validation, model.geometry, 400, fabric)(model.to(fabric.device))
        figures["patch_iou"] = measured["mean_iou"]
    return figures


PHOTO = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)

if __name__ == "__main__":
    main()
