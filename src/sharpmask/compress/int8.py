"""Exported OpenVINO models in int8 (post-training quantisation by NNCF)."""

import json
import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from sharpmask.engines.export import replacing
from sharpmask.engines.exported import ExportedEngine, openvino_core
from sharpmask.extras import extras_for
from sharpmask.files import some_home
from sharpmask.images import read_images
from sharpmask.inference.batch import Report, silent
from sharpmask.inference.proposer import Proposer
from sharpmask.inference.reading import DECODE_BATCH
from sharpmask.masks import rle_iou
from sharpmask.models.sources import DESCRIPTION

MAX_PHOTOS = 40
"""Photos from which the ranges of activations are taken, spread evenly over those given."""


def quantise(
    source: Path,
    photos: Sequence[str | PathLike[str]],
    folder: Path,
    report: Report = silent,
) -> float:
    """Write an exported OpenVINO model with int8 weights and activations.

    Args:
        source: A folder that ``export`` wrote for OpenVINO.
        photos: Of the kind that the model is for; their values set the int8 ranges.
        folder: Where to write; may be ``source``.
        report: Is told of photos that cannot be read, which are left out.

    Returns:
        How alike the masks are before and after: the mean IoU of the 100 best masks of each photo
        with the most similar new mask.

    Raises:
        ValueError: No photos that can be read, or no OpenVINO model.
        MissingExtraError: nncf or openvino is not installed.
    """
    os.environ.setdefault("NNCF_CI", "1")  # or nncf sends usage data
    with some_home(), extras_for("int8"):
        import nncf
        import openvino
    before = ExportedEngine(source)
    if before.name != "openvino":
        raise ValueError(f"int8: {source} is exported for {before.name}, expected openvino")
    chosen = np.linspace(0, len(photos) - 1, min(len(photos), MAX_PHOTOS)).astype(int)
    images = [*read_images((photos[number] for number in chosen), report)]
    if not images:
        raise ValueError("int8: photos are needed to calibrate on, got none that can be read")
    scaled, cells = inputs(before, images)
    core = openvino_core()
    with replacing(folder) as temporary:
        for half, data in (("encoder", scaled), ("decoder", cells)):
            network = core.read_model(source / f"{half}.xml")
            quantised = nncf.quantize(
                network, nncf.Dataset(data), subset_size=len(data), fast_bias_correction=True
            )
            openvino.save_model(quantised, temporary / f"{half}.xml", compress_to_fp16=False)
        description = json.loads((source / DESCRIPTION).read_text())
        description["int8"] = {"photos": len(images)}
        (temporary / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
        after = ExportedEngine(temporary, bfloat16=True)
        return float(np.mean([likeness(before, after, image) for image in images]))


def inputs(
    engine: ExportedEngine, images: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    """What the encoder and the decoder are given by a proposer, for one scale of each image."""
    proposer = Proposer(engine)
    scaled: list[np.ndarray] = []
    cells: list[list[np.ndarray]] = []
    for number, image in enumerate(images):
        octave = proposer.octaves[number % len(proposer.octaves)]
        size = engine.geometry.scaled_size(image.shape[:2], octave)
        scaled.append(proposer.scale(image, size))
        scores, features = engine.encode(scaled[-1])
        levels, best, _ = proposer.select(scores, DECODE_BATCH)
        best = np.concatenate([levels[:, None], best], axis=1)
        cells.append([best, *features.masks])
    return scaled, cells


def likeness(before: ExportedEngine, after: ExportedEngine, image: np.ndarray) -> Any:
    """Mean IoU of the best masks of one engine with the most similar ones of the other."""
    old, new = (Proposer(engine)(image).rles() for engine in (before, after))
    return rle_iou(old, new).max(axis=1, initial=0).mean() if old else 1.0
