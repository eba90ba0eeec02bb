"""``sharpmask evaluate``: Average Recall of a model or of any COCO results file."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from sharpmask import defaults
from sharpmask.cli.console import clear_errors, complain, out, progress
from sharpmask.cli.model_options import (
    Clean,
    Device,
    EngineChoice,
    MaskThreshold,
    Scales,
    Suppression,
    Weights,
)
from sharpmask.coco.results import ResultsFile
from sharpmask.engines.load import EngineName, load_engine
from sharpmask.evaluation.average_precision import average_precision, precision_table
from sharpmask.evaluation.evaluator import Evaluation
from sharpmask.evaluation.report import results_table, write_report
from sharpmask.evaluation.run import evaluate as run_evaluation
from sharpmask.extras import how_to_get
from sharpmask.files import write_json
from sharpmask.inference.batch import MAX_STREAMS, streams_for
from sharpmask.inference.proposer import Proposer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

ALWAYS = {"annotations", "output", "boxes_only"}
OF_A_FILE = ALWAYS | {"proposals", "first"}
OF_DETECTIONS = ALWAYS | {"detections", "category"}
OF_A_MODEL = ALWAYS | {
    *("first", "images", "weights", "engine", "device"),
    *("num_proposals", "scales", "mask_threshold", "suppression", "clean"),
}


@app.command()
def evaluate(
    context: typer.Context,
    annotations: Annotated[Path, typer.Option(help="COCO annotation file.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the photos; needed unless results are given.")
    ] = None,
    proposals: Annotated[
        str | None,
        typer.Option(
            help="Proposals to measure instead of a model: a COCO results file, a Parquet file, or "
            "the folder of sharpmask batch."
        ),
    ] = None,
    detections: Annotated[
        Path | None,
        typer.Option(help="COCO results file with categories, to measure instead of a model."),
    ] = None,
    category: Annotated[
        list[str] | None,
        typer.Option(help="With --detections: measure this category; may be given several times."),
    ] = None,
    boxes_only: Annotated[
        bool,
        typer.Option("--boxes-only", help="Measure boxes only; annotations then need no masks."),
    ] = False,
    weights: Weights = defaults.MODEL,
    output: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("evaluation"),
    num_proposals: Annotated[
        int,
        typer.Option(
            help="Maximum number of proposals per photo. propose makes 100 by default; AR@1000 "
            "needs 1000."
        ),
    ] = 1000,
    scales: Scales = "default",
    mask_threshold: MaskThreshold = None,
    suppression: Suppression = defaults.SUPPRESSION,
    clean: Clean = True,
    first: Annotated[
        int | None,
        typer.Option(
            min=1, help="Measure on so many photos, those with the lowest ids. Default: all."
        ),
    ] = None,
    engine: EngineChoice = "auto",
    device: Device = "auto",
) -> None:
    """Measure the share of the labelled objects that is found: Average Recall of boxes and masks.

    Writes evaluation.json and, with sharpmask[plots], two plots; prints a table. Categories are
    ignored. With
    --detections it measures COCO's Average Precision instead, and writes precision.json.

    Exit status: 0 all was measured; 1 the report is written, but some photos could not be read, or
    --proposals holds nothing for some images with objects, and these objects count as missed;
    2 nothing is written: a file is refused, no photo can be read, or there is nothing to score;
    130 stopped by Ctrl-C.
    """
    with clear_errors():
        if detections:
            only(context, OF_DETECTIONS, "--detections")
            score_detections(annotations, detections, category or [], boxes_only, output)
            return
        if proposals:
            only(context, OF_A_FILE, "--proposals")
            result = run_evaluation(
                annotations, proposals=proposals, boxes_only=boxes_only, first=first
            )
            method = Path(proposals).stem
            used: dict[str, Any] = {"proposals": Path(proposals).name}
        else:
            only(context, OF_A_MODEL, "a model")
            options = {
                "num_proposals": num_proposals, "scales": scales,
                "mask_threshold": mask_threshold, "suppression": suppression, "clean": clean,
            }  # fmt: skip
            result, engine_name = score_model(
                annotations, images, (weights, engine, device), options, boxes_only, first
            )
            method = Path(weights).stem + ("" if scales == "default" else f" --scales {scales}")
            used = {"weights": Path(weights).name, "engine": engine_name, **options}
        settings = {"annotations": annotations.name, "photos": result.images, **used}
        settings |= {"boxes_only": True} if boxes_only else {}
        files = write_report(output, method, result, settings)
        out.print(results_table({method: result}))
        out.print(*files, markup=False)
        if not find_spec("matplotlib"):
            complain(f"no plots: {how_to_get('matplotlib')}")
        if result.unseen:
            complain(f"{result.unseen} of {result.images} images were not looked at")
            raise typer.Exit(1)


def score_model(
    annotations: Path,
    images: Path | None,
    engine: tuple[str, EngineName, str],
    options: dict[str, Any],
    boxes_only: bool,
    first: int | None,
) -> tuple[Evaluation, str]:
    """Average Recall of a model (weights, engine, device), and the name of the engine."""
    if images is None:
        raise ValueError("--images: the folder of the photos is needed to run a model")
    streams = streams_for(first or MAX_STREAMS)
    proposer = Proposer(load_engine(*engine, streams=streams), **options)
    result = run_evaluation(
        annotations, images=images, proposer=proposer, boxes_only=boxes_only, first=first,
        streams=streams, progress=progress, report=complain,
    )  # fmt: skip
    return result, proposer.engine.name


def only(context: typer.Context, allowed: set[str], purpose: str) -> None:
    """Refuse options that have no effect.

    Raises:
        ValueError: One was given.
    """
    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in allowed and source and source.name == "COMMANDLINE":
            option = "--" + name.replace("_", "-")
            raise ValueError(f"{option} has no effect with {purpose}; leave it out")


def score_detections(
    annotations: Path, detections: Path, category: list[str], boxes_only: bool, output: Path
) -> None:
    """Average Precision: written, then printed."""
    results = ResultsFile(detections)
    if not len(results):
        raise ValueError(f"{detections}: nothing to score: it holds no detection")
    figures = average_precision(
        annotations, results, categories=category, boxes_only=boxes_only, source=detections
    )
    if results.has_masks and not boxes_only and "masks" not in figures:
        complain(f"{detections}: some detections have no mask, so boxes alone are measured")
    write_json(output / "precision.json", figures)
    out.print(precision_table({detections.stem: figures}))
    out.print(output / "precision.json", markup=False)
