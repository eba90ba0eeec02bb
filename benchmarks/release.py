"""Make the weights file that ships with the package out of a run, and measure it.

Writes src/sharpmask/weights/NAME.safetensors (float16; metadata: architecture, recipe, data,
parameters, figures) and SHA256SUMS beside it, benchmarks/results/evaluation_NAME.json and plots.

    python benchmarks/release.py RUN NAME ANN.json IMAGES [--data TEXT]
"""

import argparse
import hashlib
from dataclasses import asdict
from pathlib import Path

import torch
from lightning_fabric import Fabric
from rich.console import Console

from machine import RESULTS, describe
from sharpmask.cli.evaluate import evaluate_model
from sharpmask.data.coco import load_coco
from sharpmask.evaluation.coco_files import load_ground_truth
from sharpmask.evaluation.report import results_table, write_report
from sharpmask.inference.proposer import Proposer
from sharpmask.models.weights import load, read_metadata, save
from sharpmask.training.stages import validator

WEIGHTS = Path(__file__).parents[1] / "src" / "sharpmask" / "weights"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("annotations", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--data", default="", help="where the training data came from")
    arguments = parser.parse_args()
    stored = read_metadata(arguments.run)
    path = WEIGHTS / f"{arguments.name}.safetensors"
    metadata = {"recipe": stored["recipe"], "data": stored["data"] | {"source": arguments.data}}
    metadata["licence"] = "Apache-2.0; see NOTICE"
    trained = load(arguments.run)
    metadata["parameters"] = sum(p.numel() for p in trained.parameters())
    save(trained, path, metadata=metadata, dtype=torch.float16)

    # What is measured is what ships: the rounded weights.
    model = load(path)
    data = load_coco(arguments.annotations, arguments.images)
    fabric = Fabric(accelerator="cpu", devices=1)
    patches = validator(data, model.geometry, None, fabric)(model)
    truth = load_ground_truth(arguments.annotations)
    proposer = Proposer(model, num_proposals=1000)
    evaluation = evaluate_model(truth, arguments.images, proposer)
    Console(width=130).print(results_table({arguments.name: evaluation}))
    settings = {"annotations": arguments.annotations.name, "machine": describe()}
    report, *_ = write_report(
        RESULTS / "plots" / arguments.name, arguments.name, evaluation, settings
    )
    report.replace(RESULTS / f"evaluation_{arguments.name}.json")
    figures = {"patches": patches, "box_AR": evaluation.boxes.figures()}
    if evaluation.masks and evaluation.boundary:
        figures |= {
            "mask_AR": evaluation.masks.figures(),
            "boundary": asdict(evaluation.boundary),
        }
    metadata["figures"] = {"annotations": arguments.annotations.name, **figures}
    save(model, path, metadata=metadata, dtype=torch.float16)
    sums = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
        for file in sorted(WEIGHTS.glob("*.safetensors"))
    ]
    (WEIGHTS / "SHA256SUMS").write_text("".join(sums))


if __name__ == "__main__":
    main()
