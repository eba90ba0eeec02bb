"""Make the weights file that ships with the package out of a run, and measure it.

Writes src/sharpmask/weights/NAME.safetensors (float16; metadata: architecture, recipe, data,
parameters, licence, figures), beside it what ship.py makes of it, and for each pyramid
benchmarks/results/evaluation_NAME[_SCALES].json and plots. Ranking and threshold were chosen on
every third photo by id; "held_out" are the figures of the others.

    python benchmarks/release.py RUN NAME ANN.json IMAGES [--data TEXT] [--scales zoom ...]
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console

from machine import RESULTS, describe
from sharpmask.coco.annotations import load_coco
from sharpmask.coco.reader import CocoFile, load_ground_truth
from sharpmask.engines.load import load_engine
from sharpmask.evaluation.evaluator import Evaluation, ProposalEvaluator
from sharpmask.evaluation.report import results_table, write_report
from sharpmask.evaluation.run import find_all
from sharpmask.inference.batch import streams_for
from sharpmask.inference.proposer import Proposer
from sharpmask.models.pretrained import load, read_metadata, save
from sharpmask.models.pyramid import SharpMaskPyramid
from sharpmask.training.stages import validator
from ship import WEIGHTS, ship


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("annotations", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--data", default="", help="where the training data came from")
    parser.add_argument("--scales", action="append", default=["default"], help="one more pyramid")
    arguments = parser.parse_args()
    stored = read_metadata(arguments.run)
    path = WEIGHTS / f"{arguments.name}.safetensors"
    trained = load(arguments.run)
    metadata = {
        "recipe": stored["recipe"],
        "data": stored["data"] | {"source": arguments.data},
        "parameters": sum(p.numel() for p in trained.parameters()),
        "licence": "Apache-2.0; see NOTICE",
    }
    for key in ("compression", "kept_back", "calibrated"):
        if key in stored:
            metadata[key] = stored[key]
    save(trained, path, metadata=metadata, dtype=torch.float16)

    # What is measured is what ships: the rounded weights.
    model = load(path)
    data = load_coco(arguments.annotations, arguments.images)
    fabric = Fabric(accelerator="cpu", devices=1)
    figures: dict[str, Any] = {"annotations": arguments.annotations.name}
    if not isinstance(model, SharpMaskPyramid):  # that reads no patches
        figures["patches"] = validator(data, model.geometry, None, fabric)(model)
    truth = load_ground_truth(arguments.annotations, photos=True)
    for scales in arguments.scales:
        method = arguments.name + ("" if scales == "default" else f" --scales {scales}")
        everything, held_out = evaluate(path, scales, truth, arguments.images)
        Console(width=130).print(results_table({method: everything, "held out": held_out}))
        settings = {
            "annotations": arguments.annotations.name,
            "held_out": summary(held_out),
            "machine": describe(),
        }
        name = method.replace(" --scales ", "_")
        report, *_ = write_report(RESULTS / "plots" / name, method, everything, settings)
        report.replace(RESULTS / f"evaluation_{name}.json")
        if scales == "default":
            figures |= summary(everything)
    save(model, path, metadata=metadata | {"figures": figures}, dtype=torch.float16)
    ship()


def evaluate(
    weights: Path, scales: str, truth: CocoFile, images: Path
) -> tuple[Evaluation, Evaluation]:
    """Figures of all photos, and of those on which nothing was chosen."""
    ordered = sorted(truth.images, key=lambda image: image.id)
    streams = streams_for(len(ordered))
    engine = load_engine(weights, "openvino", streams=streams)  # float32: the same everywhere
    proposer = Proposer(engine, num_proposals=1000, scales=scales)
    everything, held_out = ProposalEvaluator(), ProposalEvaluator()
    found_in_each = find_all(ordered, images, proposer, streams=streams)
    for number, (image, found, _) in enumerate(found_in_each):
        for evaluator in (everything, held_out) if number % 3 else (everything,):
            evaluator.add(image, found)
    return everything.summarize(), held_out.summarize()


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """The figures of a table."""
    assert evaluation.masks is not None
    assert evaluation.boundary is not None
    return {
        "photos": evaluation.images,
        "box_AR": evaluation.boxes.figures(),
        "mask_AR": evaluation.masks.figures(),
        "boundary": asdict(evaluation.boundary),
    }


if __name__ == "__main__":
    main()
