"""Evaluation from start to end: what ``sharpmask evaluate`` does, callable."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from sharpmask.coco.annotations import CocoImage, photo_of
from sharpmask.coco.parquet_results import ParquetResults
from sharpmask.coco.problems import raise_first
from sharpmask.coco.reader import CocoFile, load_ground_truth, no_objects
from sharpmask.coco.records import ImageEntry
from sharpmask.coco.results import ResultsFile
from sharpmask.evaluation.evaluator import Evaluation, ProposalEvaluator, evaluate_results
from sharpmask.inference.batch import (
    Progress,
    Report,
    map_ordered,
    silent,
    streams_for,
    unshown,
)
from sharpmask.inference.proposer import Proposer
from sharpmask.stores import is_folder


def evaluate(
    annotations: str | PathLike[str],
    *,
    images: str | PathLike[str] | None = None,
    proposer: Proposer | None = None,
    proposals: str | PathLike[str] | None = None,
    boxes_only: bool = False,
    first: int | None = None,
    streams: int | None = None,
    progress: Progress = unshown,
    report: Report = silent,
) -> Evaluation:
    """Average Recall of a model, or of the proposals of any method.

    Args:
        annotations: COCO annotation file.
        images: Folder of the photos, with a proposer.
        proposer: Runs the model to score.
        proposals: COCO results to score instead of a model: a JSON file, a Parquet file, or the
            folder of a large run, also an address in a store.
        boxes_only: Measure boxes only; annotations then need no masks.
        first: Maximum number of images, those with the lowest ids.
        streams: Number of photos read at once; by default as many as fit the machine.
        progress: Shows how many photos are done.
        report: Is told, in a line each, of photos that cannot be read.

    Raises:
        ValueError: The annotations cannot be used or hold no object, no photo can be read, or the
            results are malformed or empty.
    """
    if (proposer is None) == (proposals is None):
        raise ValueError("evaluate: give either a proposer or a file of proposals")
    if first is not None and first < 1:
        raise ValueError(f"first: expected at least 1 image, got {first}")
    annotations = Path(annotations)
    results = open_results(proposals) if proposals else None
    masks = not boxes_only and (results is None or results.has_masks)
    truth = load_ground_truth(annotations, masks=masks, photos=proposer is not None)
    chosen = truth if first is None else first_images(truth, first)
    raise_first(annotations, no_objects(chosen.images))
    if results is not None:
        return evaluate_results(truth, results, images=chosen.images, boxes_only=boxes_only)
    if images is None or proposer is None:
        raise ValueError("images: the folder of the photos is needed to run a model")
    return evaluate_model(
        chosen, Path(images), proposer, boxes_only=boxes_only, streams=streams,
        progress=progress, report=report,
    )  # fmt: skip


def open_results(path: str | PathLike[str]) -> ResultsFile | ParquetResults:
    """Proposals in a JSON file, a Parquet file, or a folder of Parquet files.

    Raises:
        ValueError: They are malformed.
        OSError: They cannot be read.
    """
    if str(path).endswith(".parquet") or is_folder(str(path)):
        return ParquetResults(str(path))
    return ResultsFile(Path(path))


def evaluate_model(
    truth: CocoFile,
    folder: Path,
    proposer: Proposer,
    *,
    boxes_only: bool = False,
    streams: int | None = 1,
    progress: Progress = unshown,
    report: Report = silent,
) -> Evaluation:
    """Run a model over the photos of a data set and score it; those it cannot see are missed.

    Raises:
        ValueError: No photo can be read, or the annotations cannot be used.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of photos")
    evaluator = ProposalEvaluator(masks=not boxes_only)
    problems: list[str] = []
    found = find_all(truth.images, folder, proposer, streams=streams)
    for done, (image, records, problem) in enumerate(progress(found, len(truth.images)), 1):
        evaluator.add(image, records)
        problems += [problem] if problem else []
        if len(problems) < done:  # while none could be read, one line will say so
            while problems:
                report(problems.pop(0))
    evaluation = evaluator.summarize()
    if evaluation.unseen == evaluation.images > 0:
        raise ValueError(
            f"{folder}: none of {evaluation.images} photos can be read, e.g. {problems[0]}"
        )
    return evaluation


def find_all(
    images: Sequence[ImageEntry], folder: Path, proposer: Proposer, *, streams: int | None = None
) -> Iterator[tuple[ImageEntry, list[dict[str, Any]] | None, str]]:
    """Each image of a data set, its proposals, and what ails its photo.

    The proposals are None for a photo that cannot be read, or is not of the size that its entry
    states.
    """

    def found_in(photo: CocoImage) -> tuple[list[dict[str, Any]] | None, str]:
        try:
            pixels = photo.read()
        except ValueError as error:
            return None, str(error)
        assert isinstance(photo.id, int)
        return proposer(pixels).to_coco(photo.id), ""

    photos = [photo_of(image, folder) for image in images]
    calls = map_ordered(found_in, photos, streams or streams_for(len(photos)))
    for image, call in zip(images, calls, strict=True):
        yield image, *call.result()


def first_images(truth: CocoFile, count: int) -> CocoFile:
    """The first images of a file, by id."""
    chosen = sorted(truth.images, key=lambda image: image.id)[:count]
    return replace(truth, images=tuple(chosen))
