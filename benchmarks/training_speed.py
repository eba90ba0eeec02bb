"""Training patches per second for each backbone, and the share of time that waits for data (< 5 %).

A synthetic data set of 640x480 photos, JPEG on disk, as COCO's; the recipes on patches; both stages
for the default backbone.

    python benchmarks/training_speed.py [--steps 30]
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from lightning_fabric import Fabric
from PIL import Image

from machine import sgemm_rate, store
from sharpmask.coco.annotations import load_coco
from sharpmask.models.backbones import BACKBONES
from sharpmask.models.pretrained import PatchModel, build
from sharpmask.training.recipes import RECIPES
from sharpmask.training.stages import train_stage


def synthetic(folder: Path, photos: int = 32) -> Path:
    """Photos with a few boxes of noise as objects, and their annotation file."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(photos):
        low = rng.integers(0, 256, (30, 40, 3), np.uint8)
        photo = Image.fromarray(low).resize((640, 480), Image.Resampling.BICUBIC)
        photo.save(folder / f"{number}.jpg", quality=90)
        images.append({"id": number, "file_name": f"{number}.jpg", "height": 480, "width": 640})
        for k in range(8):
            x, y, side = rng.integers(0, 400), rng.integers(0, 300), rng.integers(20, 180)
            polygon = [x, y, x + side, y, x + side, y + side, x, y + side]
            annotations.append(
                {
                    "id": 8 * number + k,
                    "image_id": number,
                    "category_id": 1,
                    "segmentation": [[float(v) for v in polygon]],
                }
            )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "object"}],
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=30)
    steps = parser.parse_args().steps
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = load_coco(synthetic(folder), folder)
        for precision, backbones in (
            ("32-true", list(BACKBONES)),
            ("bf16-mixed", ["mobilenet_v2"]),
        ):
            fabric = Fabric(accelerator="cpu", devices=1, precision=precision)  # type: ignore[arg-type]
            for backbone in backbones:
                deepmask = {"model": "deepmask", "backbone": backbone}
                stages: dict[str, dict[str, Any]] = {"deepmask": deepmask}
                if backbone == "mobilenet_v2":
                    stages["sharpmask"] = {"model": "sharpmask", "deepmask": deepmask}
                for stage, architecture in stages.items():
                    recipe = replace(
                        RECIPES[f"patches-{stage}"](),
                        steps=steps,
                        validate_every=steps,
                        batch_size=12,
                    )
                    output = folder / f"{precision}-{backbone}-{stage}"
                    model = build(architecture)
                    assert isinstance(model, PatchModel)
                    train_stage(
                        model,
                        data=data,
                        validation=None,
                        recipe=recipe,
                        output=output,
                        fabric=fabric,
                    )
                    # The first 20 steps start the data worker and compile kernels.
                    last = (output / "metrics.jsonl").read_text().splitlines()[-1]
                    rows[output.name] = json.loads(last)
    store(
        "training_speed",
        {
            "config": f"recipes on patches, batches of 12, steps 21 to {steps}, one worker",
            "sgemm_gflop_per_s": sgemm_rate() / 1e9,
            "runs": {
                name: {key: row[key] for key in ("samples_per_s", "waiting_for_data")}
                for name, row in rows.items()
            },
        },
    )


if __name__ == "__main__":
    main()
