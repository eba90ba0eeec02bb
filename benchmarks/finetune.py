"""The default model before and after tuning, on photos of one kind.

python tests/synthetic_cells.py cells          # makes pictures of cells
python benchmarks/finetune.py cells cells/train.json cells/images --val cells/val.json
python benchmarks/finetune.py ore extra.json images --photos-of WesselJonge/DLforSegregation
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from rich.progress import track

from machine import store
from sharpmask.cli.console import complain
from sharpmask.cli.train_options import choose_devices
from sharpmask.cli.train_progress import StepProgress
from sharpmask.engines.exported import has_amx
from sharpmask.training.finetune import finetune
from sharpmask.training.tuning import tuning


def photos_of(annotations: Path, source: str, folder: Path) -> Path:
    """An annotation file with the photos of one source."""
    content = json.loads(annotations.read_text())
    images = [image for image in content["images"] if image.get("source") == source]
    ids = {image["id"] for image in images}
    own = [entry for entry in content["annotations"] if entry["image_id"] in ids]
    path = folder / "labels.json"
    path.write_text(json.dumps(content | {"images": images, "annotations": own}))
    return path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("annotations", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--val", type=Path)
    parser.add_argument("--photos-of", metavar="SOURCE")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--steps", type=int, help="instead of minutes, on a machine that is busy")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    precision = "bf16-mixed" if has_amx() else "32-true"
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        labels = given.annotations
        if given.photos_of:
            labels = photos_of(labels, given.photos_of, Path(folder))
        tuned = finetune(
            labels, images=given.images, val=given.val, minutes=given.minutes,
            output=given.output or Path(folder) / "run", report=complain, progress=track,
            fabric=choose_devices("auto", 1, precision), on_recipe=StepProgress,
            recipe=lambda steps: tuning(given.steps or steps),
        )  # fmt: skip
    content = asdict(tuned) | {"files": None, "name": given.name, "minutes": given.minutes}
    content |= {"took_s": time.monotonic() - begun, "load": os.getloadavg()[2]}
    content |= {"cores": os.cpu_count(), "precision": precision}
    store(f"finetune_{given.name}", content)


if __name__ == "__main__":
    main()
