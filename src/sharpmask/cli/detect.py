"""``sharpmask detect``: named objects in photos."""

from pathlib import Path
from typing import Annotated

import typer

from sharpmask import defaults
from sharpmask.cli.console import EXIT_STATUS, clear_errors, complain, refuse_options
from sharpmask.cli.model_options import Device, EngineChoice
from sharpmask.cli.photos import Annotations, AsJson, Images, Quiet, Results, settings_of
from sharpmask.cli.result_options import (
    CHOICE,
    Distinct,
    Formats,
    MaxArea,
    MinArea,
    NoOverlap,
    Parts,
    Polygons,
    Top,
)
from sharpmask.detection.detector import Detector
from sharpmask.detection.files import load_head
from sharpmask.detection.proposing import load_proposer, proposer_source
from sharpmask.inference.batch import streams_for, write_records
from sharpmask.selection import Selection
from sharpmask.writers.formats import writers_for
from sharpmask.writers.writer import Destination

FILES = ("output", "overlay", "overlay_score", "formats", "polygons")
"""Options that choose files."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog=EXIT_STATUS)
def detect(
    context: typer.Context,
    images: Images,
    detector: Annotated[
        str,
        typer.Option(
            help="Detector: a name, folder of its training, a file, or a Hugging Face repository."
        ),
    ] = defaults.DETECTOR,
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("detections"),
    formats: Formats = None,
    polygons: Polygons = False,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Where the model is that the detector was trained with. Default: where it was."
        ),
    ] = None,
    min_score: Annotated[
        float,
        typer.Option(
            help="Leave out detections with a lower score (0 to 1).", rich_help_panel=CHOICE
        ),
    ] = defaults.MIN_SCORE,
    min_area: MinArea = str(Selection.min_area),
    max_area: MaxArea = str(Selection.max_area),
    distinct: Distinct = Selection.distinct,
    parts: Parts = Selection.parts,
    no_overlap: NoOverlap = Selection.no_overlap,
    top: Top = Selection.top,
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
        select = Selection(
            min_area=min_area, max_area=max_area, distinct=distinct, parts=parts,
            no_overlap=no_overlap, top=top,
        )  # fmt: skip
        head = load_head(detector)
        source = weights or proposer_source(head.metadata, detector)
        given, photos = results.photos(images, annotations)
        names = {category.id: category.name for category in head.categories}
        destination = Destination(output, [photo.path for photo in photos], names)
        writers = writers_for(formats or [], destination, polygons=polygons)
        streams = streams_for(len(photos))
        proposer = load_proposer(
            head.metadata, detector, weights=source, engine=engine, device=device,
            streams=streams, clean=clean,
        )  # fmt: skip
        find = Detector(head, proposer, min_score=min_score)
        outcome = write_records(
            photos,
            find if select == Selection() else lambda path: select(find(path)),
            results.file,
            settings=settings_of(context, proposer.engine, detector, source),
            streams=streams,
            draw=(lambda found: found.plot(overlay_score)) if overlay and not as_json else None,
            writers=writers,
            progress=results.progress,
            report=complain,
        )
        results.conclude(outcome, given, writers)
