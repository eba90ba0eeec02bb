"""A shipped model, tuned to photos of one's own: what ``sharpmask finetune`` does."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import nn

from sharpmask import defaults
from sharpmask.coco.annotations import CocoDataset, dataset_of, photo_of, photo_problems
from sharpmask.coco.labels import read_labels
from sharpmask.coco.problems import MERGED, raise_first
from sharpmask.coco.reader import CocoFile
from sharpmask.coco.sizes import (
    most_objects,
    object_sides,
    recall_ceiling,
    share_in_reach,
)
from sharpmask.files import write_json
from sharpmask.images import write_image
from sharpmask.inference.batch import Progress, Report, silent, unshown
from sharpmask.inference.proposer import Proposer
from sharpmask.models.pretrained import load, save
from sharpmask.models.pyramid import SharpMaskPyramid
from sharpmask.models.sources import source_fingerprint
from sharpmask.training.before_after import (
    Measure,
    first_photos,
    measure,
    picture,
    proposals_for,
)
from sharpmask.training.origin import (
    MODEL,
    StrPath,
    data_origin,
    objects_in,
    only_run,
    remember,
    tell,
    tell_left_out,
)
from sharpmask.training.pyramid_stage import fit_pyramid
from sharpmask.training.recipes import Recipe
from sharpmask.training.tuning import (
    CHECKS,
    MIN_STEPS,
    PATIENCE,
    SCORE,
    checked_scores,
    choose_readings,
    fitted,
    limit_of,
    measured,
    recipe_of_run,
    refuse_shared,
    split,
    step_seconds,
    tuning,
)

TUNED = "finetune.json"
"""File of a run's folder with what was measured and decided."""
PICTURE = "before_after.png"
PICTURED = 5
CHECK_SHARE = 0.02
"""Share of the time that one measurement on the way may take."""
OnStep = Callable[[int, float], None]


@dataclass(frozen=True)
class Tuned:
    """What came out of a tuning.

    Attributes:
        measures: Of the photos held back: the model before, at its own sizes and at those that fit
            the data, and the model that is kept.
        improved: Whether tuning found a better model; else the one before is kept.
        ceiling: The most that recall can be at each number of proposals.
        photos: Number of photos held back.
        steps: Learned.
        files: The model and the picture.
    """

    measures: tuple[Measure, ...]
    improved: bool
    ceiling: dict[int, float]
    photos: int
    steps: int
    files: tuple[Path, ...]


class NoLongerBetterError(Exception):
    """It no longer improves."""


def finetune(
    labels: StrPath,
    *,
    images: StrPath,
    output: StrPath,
    source: StrPath = defaults.MODEL,
    val: StrPath | None = None,
    minutes: float = 20,
    scales: str | Sequence[float] = "auto",
    min_size: float = 12,
    recipe: Callable[[int], Recipe] = tuning,
    fabric: Fabric | None = None,
    workers: int = 1,
    report: Report = silent,
    progress: Progress = unshown,
    on_recipe: Callable[[Recipe], OnStep] | None = None,
) -> Tuned:
    """Tune a model on a feature pyramid, all its layers, to photos of one kind.

    Holds photos back, chooses the sizes at which photos are read, and measures before and after.
    ``output/model.safetensors`` holds the best model so far at any time, first the one that it
    starts from. Stops by itself when it no longer improves. The same call goes on with a run that
    was stopped.

    Args:
        labels: COCO annotation file, or a folder of LabelMe's, YOLO's or mask files.
        images: Folder of the photos.
        output: Folder of the run.
        source: The model to start from: a name, file, folder or Hugging Face repository.
        val: Labels of photos in ``images`` to measure on; a share of the photos if None.
        minutes: Time that the whole may take; the number of steps follows from the speed measured.
        scales: "auto" lets the sizes of the objects choose; "default" keeps the model's own; or
            octaves. The model's file holds them.
        min_size: Smallest longer side of an object to learn, in pixels of the largest reading.
        recipe: All numbers, for a number of steps.
        fabric: Device and precision; one device if None.
        workers: Processes that prepare data.
        report: Is told, in a line each, what is found and decided.
        progress: Shows how many photos are measured.
        on_recipe: Is told the recipe before the first step; what it returns is told of each step.

    Raises:
        ValueError: Bad data or options, the folder holds another run, or another run writes there.
        Stopped: After Ctrl-C or SIGTERM, when the state is saved.
    """
    begun = time.monotonic()
    if not 0 < minutes < 60 * 24 * 30:
        raise ValueError(f"minutes: expected more than 0 and at most a month, got {minutes}")
    images, output = Path(images), Path(output)
    start = load(source)
    if not isinstance(start, SharpMaskPyramid):
        raise ValueError(f"{source}: only models on a feature pyramid are tuned; {defaults.MODEL}")
    file = sound_labels(Path(labels), images, report)
    if val is None:
        learned_from, truth = split(file, seed=0)
    else:
        learned_from, truth = file, measured(sound_labels(Path(val), images, report))
        refuse_shared(learned_from, truth)
    most = most_objects(file.images)
    chosen = choose_readings(learned_from, start, scales)
    fabric = fabric or Fabric(accelerator="auto", devices=1)
    fabric.launch()
    with only_run(output, fabric):
        data = dataset_of([learned_from], images, below_limit=limit_of(min_size, chosen))
        tell(data, Path(labels).name, report)
        held_back = dataset_of([truth], images, below_limit=limit_of(0, chosen))
        tell(held_back, "held back", report)
        origin = {
            "command": "finetune", "from": source_fingerprint(source), "scales": list(chosen),
            "min-size": min_size, **data_origin(data, held_back, images),
        }  # fmt: skip
        remember(output, origin, report=report, write=True)
        before = fitted(start, chosen, most)
        run = _Run(output, images, truth, report, progress)
        _tell_reach(learned_from, start, chosen, report)
        if not run.noted:
            save(before, output / MODEL, metadata=start.metadata)
            run.look(start, before)
        if "steps" not in run.noted:
            run.learn(
                fitted(start, chosen, most), data, begun=begun, minutes=minutes, recipe=recipe,
                fabric=fabric, workers=workers, on_recipe=on_recipe,
            )  # fmt: skip
        if "after" not in run.noted:
            run.look_again(start, before)
        return run.tuned()


def sound_labels(labels: Path, images: Path, report: Report) -> CocoFile:
    """Labels that can be learned from, of the photos that can be read.

    Raises:
        ValueError: They are not what ``read_labels`` reads, an image entry is malformed, or no
            photo can be read.
    """
    file = read_labels(labels, images)
    raise_first(file.path, (p for p in file.problems if p.kind.training == "refused"))
    if merged := [problem for problem in file.own_problems if problem.kind is MERGED]:
        report(f"{labels.name}: {len(merged)} files may hold one mask for all, e.g. {merged[0]}")
    problems = photo_problems([photo_of(image, images) for image in file.images])
    tell_left_out([*filter(None, problems)], len(problems), labels.name, report)
    there = zip(file.images, problems, strict=True)
    return replace(file, images=tuple(image for image, problem in there if not problem))


def _tell_reach(
    file: CocoFile, model: SharpMaskPyramid, readings: Sequence[float], report: Report
) -> None:
    sides = object_sides(file.images, defaults.IMAGE_SIZE)
    shares = [
        f"{100 * share_in_reach(sides, octaves, model.geometry):.0f} %"
        for octaves in (model.geometry.readings, readings)
    ]
    report(
        f"photos are read at {','.join(f'{octave:g}' for octave in readings)} octaves: windows fit "
        f"{shares[1]} of the objects, {shares[0]} at the model's own sizes"
    )


class _Run:
    """The state of a run: what it noted, and where."""

    def __init__(
        self, output: Path, images: Path, truth: CocoFile, report: Report, progress: Progress
    ) -> None:
        self.output, self.images, self.truth = output, images, truth
        self.report, self.progress = report, progress
        path = output / TUNED
        self.noted: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def note(self, **values: Any) -> None:
        """Remember what was measured or decided."""
        self.noted |= values
        write_json(self.output / TUNED, self.noted, indent=1)

    def measure(self, name: str, model: SharpMaskPyramid) -> Measure:
        """Of all photos held back."""
        found = measure(
            name, model, self.truth, self.images, progress=self.progress, report=self.report
        )  # fmt: skip
        self.report(f"{name}: mask AR@100 {100 * found.score:.1f}, {found.photo_s:.1f} s a photo")
        return found

    def look(self, start: SharpMaskPyramid, before: SharpMaskPyramid) -> None:
        """Measure the model before, as it is and as it reads the data."""
        measures = [self.measure("before, at its own sizes", start)]
        if before.geometry.readings != start.geometry.readings:
            measures.append(self.measure("before, at the sizes of the data", before))
        self.note(before=[asdict(measured) for measured in measures])

    def learn(
        self,
        model: SharpMaskPyramid,
        data: CocoDataset,
        *,
        begun: float,
        minutes: float,
        recipe: Callable[[int], Recipe],
        fabric: Fabric,
        workers: int,
        on_recipe: Callable[[Recipe], OnStep] | None,
    ) -> None:
        """Learn until the time is up or nothing gets better; the best model lies in ``output``."""
        readings = model.geometry.readings
        photo_s = [m["photo_s"] for m in self.noted["before"]][-1]
        checked = max(1, min(len(self.truth.images), int(CHECK_SHARE * 60 * minutes / photo_s)))
        few = first_photos(self.truth, checked)
        chosen = recipe_of_run(self.output)
        if chosen is None:
            step_s = step_seconds(model, data, readings, recipe, fabric, workers)
            left_s = 60 * minutes - (time.monotonic() - begun)
            left_s -= photo_s * (CHECKS * checked + len(self.truth.images) + 2 * PICTURED)
            chosen = recipe(max(MIN_STEPS, int(left_s / step_s)))
            self.report(
                f"{chosen.steps} steps of {step_s:.2f} s: about "
                f"{(time.monotonic() - begun + chosen.steps * step_s) / 60:.0f} minutes in all"
            )
            first = measure("before", model, few, self.images)
            self.note(start=first.score)

        def check(network: nn.Module) -> dict[str, float]:
            assert isinstance(network, SharpMaskPyramid)
            found = measure("now", network, few, self.images)
            return {SCORE: found.score}

        def keep(learned: dict[str, Any]) -> None:
            if not learned["validation"]:
                return
            scores = [self.noted["start"], *checked_scores(self.output)]
            best = max(scores[:-1])
            if scores[-1] > best:
                told = {"tuned_from": model.metadata, **learned}
                save(model, self.output / MODEL, metadata=told)
                self.note(improved=True)
            since = len(scores) - 1 - scores.index(max(scores))
            done = learned["steps"]["done"]
            self.report(
                f"after {done} steps: mask AR@100 {100 * scores[-1]:.1f} on {checked} photos"
            )
            if since >= PATIENCE and done < learned["steps"]["of"]:
                raise NoLongerBetterError(done)

        steps = chosen.steps
        try:
            fit_pyramid(
                model, data=data, recipe=chosen, output=self.output, fabric=fabric,
                workers=workers, readings=readings, validate=check, keep=keep,
                on_step=on_recipe(chosen) if on_recipe else None,
            )  # fmt: skip
        except NoLongerBetterError as end:
            steps = int(end.args[0])
            self.report(f"stopped after {steps} of {chosen.steps} steps: it no longer improves")
        self.note(steps=steps, objects=objects_in(data))

    def look_again(self, start: SharpMaskPyramid, before: SharpMaskPyramid) -> None:
        """Measure the best model; keep the best one before if that is better; draw both."""
        after = load(self.output)
        assert isinstance(after, SharpMaskPyramid)
        found = self.measure("after", after)
        scores = [Measure.of(m).score for m in self.noted["before"]]
        best, sizes = max(scores), "the sizes of the data"
        if scores[0] > scores[-1]:
            before, sizes = start, "its own sizes"
        improved = bool(self.noted.get("improved")) and found.score > best
        if not improved:
            self.report(
                f"tuning made it no better: the model before is kept, with {sizes}; label more "
                "photos, or give more --minutes"
            )
            save(before, self.output / MODEL, metadata=before.metadata)
        count = proposals_for(self.truth.images)
        drawn = picture(
            [Proposer(model, num_proposals=count) for model in (before, after)],
            self.truth.images[:PICTURED], self.images,
        )  # fmt: skip
        write_image(self.output / PICTURE, drawn)
        self.note(after=asdict(found), improved=improved)

    def tuned(self) -> Tuned:
        """All that was noted."""
        measures = [Measure.of(m) for m in [*self.noted["before"], self.noted["after"]]]
        ceiling = {n: recall_ceiling(self.truth.images, n) for n in measures[0].recall}
        return Tuned(
            tuple(measures), self.noted["improved"], ceiling, len(self.truth.images),
            self.noted["steps"], (self.output / MODEL, self.output / PICTURE),
        )  # fmt: skip
