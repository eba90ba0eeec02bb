"""``sharpmask detect``: named objects in photos."""

from pathlib import Path
from typing import Annotated

import typer

from sharpmask import defaults
from sharpmask.cli.console import EXIT_STATUS, clear_errors, complain, refuse_options
from sharpmask.cli.model_options import Device, EngineChoice
from sharpmask.cli.photos import Annotations, AsJson, Images, Quiet, Results, settings_of
from sharpmask.detection.detector import Detector
from sharpmask.detection.files import load_classifier
from sharpmask.detection.proposing import load_proposer, proposer_source
from sharpmask.inference.batch import streams_for, write_records

FILES = ("output", "overlay", "overlay_score")
"""Options that choose files."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog=EXIT_STATUS)
def detect(
    context: typer.Context,
    images: Images,
    detector: Annotated[
        str,
        typer.Option(
            help="Detector: folder of its training, a file, or a Hugging Face repository."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("detections"),
    weights: Annotated[
        str | None,
        typer.Option(
            help="Model that proposes regions. Default: the one that the detector was trained with."
        ),
    ] = None,
    min_score: Annotated[
        float, typer.Option(help="Leave out detections with a lower score (0 to 1).")
    ] = defaults.MIN_SCORE,
    clean: Annotated[bool, typer.Option(help="As in propose, for the regions' masks.")] = True,
    annotations: Annotations = None,
    overlay: Annotated[bool, typer.Option(help="Draw the objects on the photo.")] = True,
    overlay_score: Annotated[
        float, typer.Option(help="Draw objects with at least this score (0 to 1).")
    ] = defaults.OVERLAY_SCORE,
    engine: EngineChoice = "auto",
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Find and name objects: write detections.json (COCO results, boxes and masks) and pictures.

    A photo that cannot be read is reported and left out. The same command goes on with a run
    that was stopped.
    """
    with (
        clear_errors(),
        Results.of(context, output / "detections.json", FILES, as_json, quiet) as results,
    ):
        if not overlay:
            refuse_options(context, ["overlay_score"], "with --no-overlay")
        classifier = load_classifier(detector)
        source = weights or proposer_source(classifier.metadata, detector)
        given, photos = results.photos(images, annotations)
        streams = streams_for(len(photos))
        proposer = load_proposer(
            classifier.metadata, detector, weights=source, engine=engine, device=device,
            streams=streams, clean=clean,
        )  # fmt: skip
        outcome = write_records(
            photos,
            Detector(classifier, proposer, min_score=min_score),
            results.file,
            settings=settings_of(context, proposer.engine, detector, source),
            streams=streams,
            draw=(lambda found: found.plot(overlay_score)) if overlay and not as_json else None,
            progress=results.progress,
            report=complain,
        )
        results.conclude(outcome, given)
