"""The parts of a tuning: its recipe, the photos it holds back, how many steps there is time for."""

import copy
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric

from sharpmask.coco.annotations import CocoDataset
from sharpmask.coco.reader import CocoFile
from sharpmask.coco.records import Box, ImageEntry
from sharpmask.coco.sizes import fitting_readings, reduction_of
from sharpmask.defaults import IMAGE_SIZE
from sharpmask.geometry import octaves_of
from sharpmask.models.pretrained import build, read_metadata
from sharpmask.models.pyramid import SharpMaskPyramid
from sharpmask.training.loop import CHECKPOINT
from sharpmask.training.pyramid_stage import fit_pyramid, pyramid
from sharpmask.training.recipes import Recipe
from sharpmask.training.signals import Stopped

HELD_BACK = 0.2
"""Share of the photos that is held back for measuring."""
MIN_HELD_BACK, ENOUGH_OBJECTS = 5, 1000
"""Of that share no more photos than hold so many objects, but at least so many photos."""
CHECKS = 8
"""How often a tuning is measured on the way."""
PATIENCE = 3
"""It stops after so many measurements without a better one."""
PROBE_STEPS, PROBE_SKIPPED = 12, 6
"""Steps that are learned to see how long one takes, and the first of them, which do not count."""
MIN_STEPS = 16
MAX_CANDIDATES = 600
"""Masks decoded for a photo, by default, however many objects it holds."""


def tuning(steps: int) -> Recipe:
    """From a model that has learned much else: all layers, at lower rates, in a few hundred steps.

    The moving average reaches back over a tenth of the steps.
    """
    return replace(
        pyramid(),
        steps=steps,
        scene_windows=8,
        copy_paste=0.5,
        learning_rate=5e-4,
        backbone_learning_rate=1e-4,
        frozen_stride=0,
        warmup_steps=min(100, steps // 10),
        ema_decay=max(0.8, 1 - 10 / steps),
        validate_every=max(1, steps // CHECKS),
    )


def fitted(
    model: SharpMaskPyramid, readings: Sequence[float], most_objects: int
) -> SharpMaskPyramid:
    """The same network, which by default reads photos as fits the data.

    Args:
        model: Not changed.
        readings: Octaves.
        most_objects: Of a photo; twice as many masks are decoded, as some find the same object.
    """
    count = min(max(model.geometry.num_candidates, 2 * most_objects), MAX_CANDIDATES)
    other = build({**model.architecture, "readings": list(readings), "num_candidates": count})
    assert isinstance(other, SharpMaskPyramid)
    other.load_state_dict(model.state_dict())
    other.metadata = model.metadata
    return other.eval()


def split(file: CocoFile, seed: int) -> tuple[CocoFile, CocoFile]:
    """Photos to learn from, and photos held back: a share of those that can be measured on.

    Raises:
        ValueError: There are fewer than two photos with objects.
    """
    measurable = measured(file).images
    if len(measurable) < 2:
        raise ValueError(
            f"{file.path}: one photo has objects and sound labels; at least 2 are needed, one to "
            "learn from and one to measure on"
        )
    drawn = np.random.default_rng(seed).permutation(len(measurable))
    objects = np.cumsum([len(measurable[k].annotations) for k in drawn])
    enough = max(MIN_HELD_BACK, 1 + int(np.searchsorted(objects, ENOUGH_OBJECTS)))
    drawn = drawn[: min(max(1, round(HELD_BACK * len(measurable))), enough)]
    held_back = tuple(measurable[k] for k in sorted(drawn))
    names = {image.file_name for image in held_back}
    rest = tuple(image for image in file.images if image.file_name not in names)
    return replace(file, images=rest), replace(file, images=held_back)


def measured(file: CocoFile) -> CocoFile:
    """The photos that a model can be measured on: all labelled, soundly, with an object.

    Raises:
        ValueError: There is none.
    """
    images = []
    refused = []
    for image in file.images:
        problems = [
            problem
            for problem in image.all_problems
            if problem.kind.evaluation == "refused" and problem.kind.needs != "category"
        ]
        refused += problems
        if not problems and any(not annotation.crowd for annotation in image.annotations):
            images.append(image)
    if not images:
        first = f", e.g. {refused[0]}" if refused else ""
        raise ValueError(f"{file.path}: no photo has objects and sound labels to measure on{first}")
    return replace(file, images=tuple(images))


def refuse_shared(learned_from: CocoFile, measured_on: CocoFile) -> None:
    """Photos that are learned from say nothing about others.

    Raises:
        ValueError: A photo is in both files.
    """
    learned = {image.file_name for image in learned_from.images}
    shared = [image.file_name for image in measured_on.images if image.file_name in learned]
    if shared:
        raise ValueError(
            f"{measured_on.path}: {len(shared)} of its photos are in {learned_from.path} too, e.g. "
            f"{shared[0]}; leave them out of one of the two, or leave out --val"
        )


def choose_readings(
    file: CocoFile, model: SharpMaskPyramid, scales: str | Sequence[float]
) -> tuple[float, ...]:
    """Octaves at which photos are to be read.

    Raises:
        ValueError: Unknown name, or bad octaves.
    """
    if scales == "auto":
        return fitting_readings(file.images, model.geometry, IMAGE_SIZE)
    return octaves_of(scales, model.geometry.pyramids)


def limit_of(min_size: float, readings: Sequence[float]) -> Callable[[ImageEntry, Box], bool]:
    """Whether an object is shorter than ``min_size`` pixels in the largest reading of its photo."""

    def is_below(image: ImageEntry, box: Box) -> bool:
        left, top, right, bottom = box
        scale = reduction_of(image.size, IMAGE_SIZE) * 2 ** max(readings)
        return max(right - left, bottom - top) * scale < min_size

    return is_below


def step_seconds(
    model: SharpMaskPyramid,
    data: CocoDataset,
    readings: Sequence[float],
    recipe: Callable[[int], Recipe],
    fabric: Fabric,
    workers: int,
) -> float:
    """How long a step takes: a copy of the model learns a few, the way it will."""
    times: list[float] = []
    few = replace(recipe(PROBE_STEPS), steps=PROBE_STEPS, validate_every=PROBE_STEPS)
    try:
        with tempfile.TemporaryDirectory() as folder:
            fit_pyramid(
                copy.deepcopy(model), data=data, recipe=few,
                output=Path(folder), fabric=fabric, workers=workers, readings=readings,
                keep=lambda _: None, on_step=lambda *_: times.append(time.perf_counter()),
            )  # fmt: skip
    except Stopped as stop:
        text = "stopped while steps were timed, before the first was kept; the same command goes on"
        raise Stopped(stop.signal, text) from None
    return float(np.diff(times[PROBE_SKIPPED - 1 :]).mean())


def recipe_of_run(output: Path) -> Recipe | None:
    """The recipe of the run that a folder holds, None if it holds none."""
    path = output / CHECKPOINT
    return Recipe(**read_metadata(path)["recipe"]) if path.exists() else None


def checked_scores(output: Path) -> list[float]:
    """What was measured on the way, in order."""
    path = output / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line).get(f"val_{SCORE}") for line in lines if SCORE in line]
    return [score for score in found if score is not None]


SCORE = "mask_ar"
"""What the log calls the figure by which models are compared."""
