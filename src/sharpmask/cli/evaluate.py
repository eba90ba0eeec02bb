"""``sharpmask evaluate``: Average Recall of a model or of any COCO results file."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track

from sharpmask.cli.console import clear_errors, complain, err, out
from sharpmask.cli.photos import write_json
from sharpmask.coco.annotations import CocoImage
from sharpmask.coco.results import (
    GroundTruth,
    ResultsFile,
    examine_photos,
    load_ground_truth,
)
from sharpmask.engines.load import EngineName, load_engine
from sharpmask.evaluation.average_precision import average_precision, precision_table
from sharpmask.evaluation.evaluator import Evaluation, ProposalEvaluator, evaluate_results
from sharpmask.evaluation.report import results_table, write_report
from sharpmask.images import ImageError
from sharpmask.inference.batch import map_ordered, streams_for
from sharpmask.inference.proposer import Proposer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def evaluate(
    annotations: Annotated[Path, typer.Option(help="COCO annotation file.")],
    images: Annotated[Path | None, typer.Option(help="Folder of the photos.")] = None,
    proposals: Annotated[
        Path | None, typer.Option(help="COCO results file to score, instead of a model.")
    ] = None,
    detections: Annotated[
        Path | None, typer.Option(help="COCO results with categories: Average Precision of them.")
    ] = None,
    category: Annotated[
        list[str] | None, typer.Option(help="Average over this one; may be repeated. Default: all.")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="Model: name, file, or Hugging Face repository.")
    ] = "sharpmask-mobilenetv2",
    output: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("evaluation"),
    num_proposals: Annotated[int, typer.Option(help="Most masks for a photo.")] = 1000,
    scales: Annotated[str, typer.Option(help="default, zoom or zoom2.")] = "default",
    mask_threshold: Annotated[float, typer.Option(help="See propose.")] = 0.35,
    suppression: Annotated[float, typer.Option(help="See propose.")] = 0.7,
    first: Annotated[int | None, typer.Option(min=1, help="Only so many photos, by id.")] = None,
    engine: Annotated[EngineName, typer.Option(help="See propose.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Average Recall of boxes and masks, class-agnostic: a table, evaluation.json and two plots.

    With --detections COCO's Average Precision instead: a table and precision.json.
    """
    with clear_errors():
        if detections:
            figures = average_precision(
                annotations, ResultsFile(detections), categories=category or (), source=detections
            )
            out.print(precision_table({detections.stem: figures}))
            output.mkdir(parents=True, exist_ok=True)
            write_json(output / "precision.json", figures)
            out.print(output / "precision.json", markup=False)
            return
        truth = load_ground_truth(annotations)
        if first:
            chosen = sorted(truth.images, key=lambda image: image["id"])[:first]
            truth = replace(truth, images=tuple(chosen))
        settings: dict[str, Any] = {"annotations": annotations.name, "photos": len(truth.images)}
        if proposals:
            method = proposals.stem
            result = evaluate_results(truth, ResultsFile(proposals))
            settings["proposals"] = proposals.name
        else:
            if images is None:
                raise ValueError("--images: the folder of the photos is needed to run a model")
            options = {
                "num_proposals": num_proposals,
                "scales": scales,
                "mask_threshold": mask_threshold,
                "suppression": suppression,
            }
            streams = streams_for(len(truth.images))
            proposer = Proposer(load_engine(weights, engine, device, streams=streams), **options)  # type: ignore[arg-type]
            method = Path(weights).stem + ("" if scales == "default" else f" --scales {scales}")
            result = evaluate_model(truth, images, proposer, streams=streams)
            settings |= {"weights": Path(weights).name, "engine": proposer.engine.name, **options}
        out.print(results_table({method: result}))
        files = write_report(output, method, result, settings)
        out.print(*files, markup=False)


def evaluate_model(
    truth: GroundTruth, images: Path, proposer: Proposer, *, streams: int = 1
) -> Evaluation:
    """Run a model over the photos of a data set and score it; those it cannot see are missed."""
    evaluator = ProposalEvaluator()
    for image, found in find_all(truth.images, images, proposer, streams=streams):
        evaluator.add(image, truth.annotations[image["id"]], found)
    return evaluator.summarize()


def find_all(
    images: Sequence[Mapping[str, Any]], folder: Path, proposer: Proposer, *, streams: int
) -> Iterator[tuple[Mapping[str, Any], list[dict[str, Any]]]]:
    """Each image of a data set and its proposals.

    There are none for a photo that cannot be read, or is not of the size that its entry states.

    Raises:
        ValueError: An entry names no photo.
    """
    photos, faults = examine_photos(images, folder)
    for record, problem in faults:
        raise ValueError(f"{record} {problem}")

    def found_in(photo: CocoImage) -> list[dict[str, Any]]:
        try:
            pixels = photo.read()
        except ValueError as error:
            raise ImageError(str(error)) from None
        return proposer(pixels).to_coco(photo.id)

    for image, call in track(
        zip(images, map_ordered(found_in, photos, streams), strict=True),
        "evaluating",
        total=len(images),
        console=err,
        disable=not err.is_terminal,
        transient=True,
    ):
        try:
            records = call.result()
        except ImageError as error:
            complain(error)
            records = []
        yield image, records
