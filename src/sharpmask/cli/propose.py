"""``sharpmask propose``: object masks for photos."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from sharpmask import defaults
from sharpmask.cli.console import EXIT_STATUS, clear_errors, complain, progress, refuse_options
from sharpmask.cli.photos import Annotations, AsJson, Images, Quiet, Results, settings_of
from sharpmask.engines.load import EngineName, load_engine
from sharpmask.inference.batch import streams_for, write_records
from sharpmask.inference.proposer import Proposer
from sharpmask.inference.tiles import Tile, TiledProposer
from sharpmask.proposals import Proposals
from sharpmask.selection import Selection
from sharpmask.writers.formats import FORMATS, writers_for
from sharpmask.writers.writer import Destination

Find = Callable[[Path], Proposals]

FILES = ("output", "overlay", "overlay_masks", "formats", "polygons")
"""Options that choose files."""

CHOICE = "Which masks to keep"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog=EXIT_STATUS)
def propose(
    context: typer.Context,
    images: Images,
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("proposals"),
    weights: Annotated[
        str, typer.Option(help="Model: a name, file, folder or Hugging Face repository.")
    ] = defaults.MODEL,
    num_proposals: Annotated[
        int, typer.Option(help="Maximum number of proposals per photo.")
    ] = defaults.NUM_PROPOSALS,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help=f"Write this too: {', '.join(FORMATS)}; may be given several times.",
            autocompletion=lambda: list(FORMATS),
        ),
    ] = None,
    polygons: Annotated[
        bool, typer.Option("--polygons", help="Polygons, not masks, in coco, labelme, labelstudio.")
    ] = False,
    min_score: Annotated[
        float,
        typer.Option(
            help="Leave out proposals with a lower score (0 to 1).", rich_help_panel=CHOICE
        ),
    ] = Selection.min_score,
    min_area: Annotated[
        str,
        typer.Option(
            help="Leave out smaller masks: pixels, or a share of the photo as 1%.",
            rich_help_panel=CHOICE,
        ),
    ] = str(Selection.min_area),
    max_area: Annotated[
        str,
        typer.Option(
            help="Leave out larger masks: pixels, or a share of the photo as 50%.",
            rich_help_panel=CHOICE,
        ),
    ] = str(Selection.max_area),
    distinct: Annotated[
        float,
        typer.Option(
            help="Leave out masks whose IoU with a better one exceeds this; 1 keeps all.",
            rich_help_panel=CHOICE,
        ),
    ] = Selection.distinct,
    parts: Annotated[
        bool,
        typer.Option(
            help="Keep, or with --no-parts leave out, masks that lie to 90% in another one.",
            rich_help_panel=CHOICE,
        ),
    ] = Selection.parts,
    no_overlap: Annotated[
        bool,
        typer.Option(
            "--no-overlap",
            help="Masks do not overlap: each pixel goes to the best mask that holds it.",
            rich_help_panel=CHOICE,
        ),
    ] = Selection.no_overlap,
    top: Annotated[
        int | None,
        typer.Option(
            help="Keep at most so many masks per photo, after the choices above.",
            rich_help_panel=CHOICE,
        ),
    ] = Selection.top,
    scales: Annotated[
        str,
        typer.Option(
            help="Sizes at which a photo is read: default; zoom or zoom2, slower, for smaller "
            "objects; fast (the default model alone); or powers of two of --image-size: "
            "--scales=-1,0,1."
        ),
    ] = "default",
    image_size: Annotated[
        int,
        typer.Option(
            help="The model sees photos with the longer side reduced to so many pixels; masks have "
            "full size."
        ),
    ] = defaults.IMAGE_SIZE,
    mask_threshold: Annotated[
        float | None,
        typer.Option(
            help="Probability above which a pixel belongs to the object. Default: the model's own."
        ),
    ] = None,
    suppression: Annotated[
        float,
        typer.Option(
            help="Move masks to the end whose IoU with a better one exceeds this (0 to 1)."
        ),
    ] = defaults.SUPPRESSION,
    clean: Annotated[
        bool,
        typer.Option(help="Reduce each mask to its largest piece, with holes filled."),
    ] = True,
    annotations: Annotations = None,
    tiles: Annotated[
        bool,
        typer.Option(
            "--tiles",
            help="Read the picture in overlapping parts at full size, as for aerial pictures.",
        ),
    ] = False,
    overlay: Annotated[bool, typer.Option(help="Draw the best masks on the photo.")] = True,
    overlay_masks: Annotated[
        int, typer.Option(min=0, help="Maximum number of masks drawn on a photo.")
    ] = defaults.OVERLAY_MASKS,
    engine: Annotated[
        EngineName,
        typer.Option(
            help="What runs the model; auto is the fastest that is installed (docs/export.md)."
        ),
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    torch7: Annotated[
        bool,
        typer.Option(
            "--torch7",
            help="Repeat FAIR's arithmetic, its known fault included (docs/fair-models.md).",
        ),
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Find objects in photos: write proposals.json (COCO results) and pictures of the best masks.

    A photo that cannot be read is reported and left out. The same command goes on with a run
    that was stopped.
    """
    with (
        clear_errors(),
        Results.of(context, output / "proposals.json", FILES, as_json, quiet) as results,
    ):
        if not overlay:
            refuse_options(context, ["overlay_masks"], "with --no-overlay")
        if torch7:
            unused = ["mask_threshold", "suppression", "clean", "image_size", "tiles", "engine"]
            refuse_options(context, unused, "with --torch7")
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
        if torch7:
            from sharpmask.torch7.proposer import Torch7Proposer

            find: Find = Torch7Proposer(loaded, num_proposals=num_proposals, scales=scales)
        else:
            find = Proposer(
                loaded,
                num_proposals=defaults.NUM_PROPOSALS if tiles else num_proposals,
                scales=scales,
                mask_threshold=mask_threshold,
                suppression=suppression,
                clean=clean,
                image_size=image_size,
            )
            if tiles:  # `num_proposals` is of all tiles together
                shown = iter if quiet or len(photos) > 1 else _tiles
                find = TiledProposer(find, num_proposals=num_proposals, progress=shown)
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


def _tiles(tiles: Sequence[Tile]) -> Iterable[Tile]:
    return progress(tiles, len(tiles), "tiles")
