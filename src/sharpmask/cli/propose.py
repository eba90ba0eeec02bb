"""``sharpmask propose``: object masks for photos."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from sharpmask import defaults
from sharpmask.cli.console import EXIT_STATUS, clear_errors, complain, refuse_options
from sharpmask.cli.model_options import (
    Clean,
    Device,
    EngineChoice,
    MaskThreshold,
    NumProposals,
    Scales,
    Suppression,
    Weights,
)
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
from sharpmask.engines.load import load_engine
from sharpmask.engines.protocol import Engine
from sharpmask.inference.batch import Progress, streams_for, unshown, write_records
from sharpmask.inference.proposer import Proposer
from sharpmask.inference.tiles import TiledProposer
from sharpmask.proposals import Proposals
from sharpmask.selection import Selection
from sharpmask.writers.formats import writers_for
from sharpmask.writers.writer import Destination

FILES = ("output", "overlay", "overlay_masks", "formats", "polygons")
"""Options that choose files."""
NOT_FAIRS = ("mask_threshold", "suppression", "clean", "image_size", "tiles", "engine")
"""Options of what FAIR's code does in one way only."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog=EXIT_STATUS)
def propose(
    context: typer.Context,
    images: Images,
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("proposals"),
    weights: Weights = defaults.MODEL,
    num_proposals: NumProposals = defaults.NUM_PROPOSALS,
    formats: Formats = None,
    polygons: Polygons = False,
    min_score: Annotated[
        float,
        typer.Option(
            help="Leave out proposals with a lower score (0 to 1).", rich_help_panel=CHOICE
        ),
    ] = Selection.min_score,
    min_area: MinArea = str(Selection.min_area),
    max_area: MaxArea = str(Selection.max_area),
    distinct: Distinct = Selection.distinct,
    parts: Parts = Selection.parts,
    no_overlap: NoOverlap = Selection.no_overlap,
    top: Top = Selection.top,
    scales: Scales = "default",
    image_size: Annotated[
        int,
        typer.Option(
            help="Larger photos are reduced to this many pixels on the longer side before the "
            "model reads them; masks have the photo's own size."
        ),
    ] = defaults.IMAGE_SIZE,
    mask_threshold: MaskThreshold = None,
    suppression: Suppression = defaults.SUPPRESSION,
    clean: Clean = True,
    annotations: Annotations = None,
    tiles: Annotated[
        bool,
        typer.Option(
            "--tiles",
            help="Read a very large photo, such as an aerial one, in overlapping parts at full "
            "size.",
        ),
    ] = False,
    overlay: Annotated[bool, typer.Option(help="Draw the best masks on the photo.")] = True,
    overlay_masks: Annotated[
        int, typer.Option(min=0, help="Maximum number of masks drawn on a photo.")
    ] = defaults.OVERLAY_MASKS,
    engine: EngineChoice = "auto",
    device: Device = "auto",
    torch7: Annotated[
        bool,
        typer.Option(
            "--torch7",
            help="For comparisons: compute as the authors' original code (FAIR's) does, its lost "
            "column of windows included (docs/fair-models.md).",
        ),
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Find objects in photos: write proposals.json (COCO results) and pictures of the best masks.

    A photo that cannot be read is reported and left out. The same command goes on with a run
    that was stopped; with other options it begins anew and replaces the results.
    """
    with (
        clear_errors(),
        Results.of(context, output / "proposals.json", FILES, as_json, quiet) as results,
    ):
        if not overlay:
            refuse_options(context, ["overlay_masks"], "with --no-overlay")
        if torch7:
            refuse_options(context, NOT_FAIRS, "with --torch7")
        select = Selection(
            min_score=min_score, min_area=min_area, max_area=max_area, distinct=distinct,
            parts=parts, no_overlap=no_overlap, top=top,
        )  # fmt: skip
        given, photos = results.photos(images, annotations)
        destination = Destination(output, [photo.path for photo in photos])
        writers = writers_for(formats or [], destination, polygons=polygons)
        # Tiles keep all cores busy by themselves.
        streams = 1 if tiles else streams_for(len(photos))
        loaded = load_engine(weights, "torch" if torch7 else engine, device, streams=streams)
        find = finder(
            loaded, torch7=torch7, tiles=tiles, num_proposals=num_proposals, scales=scales,
            mask_threshold=mask_threshold, suppression=suppression, clean=clean,
            image_size=image_size,
            progress=results.progress if len(photos) == 1 else unshown,
        )  # fmt: skip
        outcome = write_records(
            photos,
            find if select == Selection() else lambda path: select(find(path)),
            results.file,
            settings=settings_of(context, loaded, weights),
            streams=streams,
            draw=(lambda found: found.plot(overlay_masks)) if overlay and not as_json else None,
            writers=writers,
            progress=results.progress,
            report=complain,
        )
        results.conclude(outcome, given, writers)


def finder(
    engine: Engine,
    *,
    torch7: bool,
    tiles: bool,
    progress: Progress,
    num_proposals: int,
    scales: str,
    **options: Any,
) -> Callable[[Path], Proposals]:
    """What proposes objects in a photo.

    Args:
        engine: Runs the model.
        torch7: Do as FAIR's code does; then ``options`` are not used.
        tiles: Read the photo in tiles; ``num_proposals`` is of all tiles together.
        progress: Shows how many tiles of a photo are done.
        num_proposals: As of a ``Proposer``.
        scales: As of a ``Proposer``.
        options: Further ones of a ``Proposer``.
    """
    if torch7:
        from sharpmask.torch7.proposer import Torch7Proposer

        return Torch7Proposer(engine, num_proposals=num_proposals, scales=scales)
    if tiles:
        reader = Proposer(engine, scales=scales, **options)
        return TiledProposer(reader, num_proposals=num_proposals, progress=progress)
    return Proposer(engine, num_proposals=num_proposals, scales=scales, **options)
