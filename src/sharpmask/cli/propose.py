"""``sharpmask propose``: object masks for photos."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from sharpmask import defaults
from sharpmask.cli.console import clear_errors, complain, progress, refuse_options
from sharpmask.cli.photos import conclude, photos_of, settings_of
from sharpmask.engines.load import EngineName, load_engine
from sharpmask.images import list_images
from sharpmask.inference.batch import streams_for, write_records
from sharpmask.inference.proposer import Proposer
from sharpmask.inference.tiles import Tile, TiledProposer
from sharpmask.proposals import Proposals

Find = Callable[[Path], Proposals]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def propose(
    context: typer.Context,
    images: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.")],
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("proposals"),
    weights: Annotated[
        str, typer.Option(help="Model: a name, file, folder or Hugging Face repository.")
    ] = defaults.MODEL,
    num_proposals: Annotated[
        int, typer.Option(help="Maximum number of proposals per photo.")
    ] = defaults.NUM_PROPOSALS,
    scales: Annotated[
        str,
        typer.Option(
            help="Pyramid: default, zoom or zoom2 (smaller objects), or octaves such as -1,0,1."
        ),
    ] = "default",
    image_size: Annotated[
        int, typer.Option(help="Reduce photos with a longer side to so many pixels first.")
    ] = defaults.IMAGE_SIZE,
    mask_threshold: Annotated[
        float, typer.Option(help="Probability above which a pixel belongs to the object.")
    ] = defaults.MASK_THRESHOLD,
    suppression: Annotated[
        float, typer.Option(help="Rank masks last whose IoU with a better one exceeds this.")
    ] = defaults.SUPPRESSION,
    annotations: Annotated[
        Path | None, typer.Option(help="COCO file that gives the photos their image ids by name.")
    ] = None,
    tiles: Annotated[
        bool, typer.Option("--tiles", help="Read images far larger than photos in parts.")
    ] = False,
    overlay: Annotated[bool, typer.Option(help="Draw the best masks on the photo.")] = True,
    overlay_masks: Annotated[
        int, typer.Option(min=0, help="Maximum number of masks drawn on a photo.")
    ] = defaults.OVERLAY_MASKS,
    engine: Annotated[
        EngineName,
        typer.Option(help="What runs the model; auto is the fastest that is installed."),
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    torch7: Annotated[
        bool,
        typer.Option("--torch7", help="Compute as FAIR's Torch7 code does, with its lost cell."),
    ] = False,
) -> None:
    """Find objects in photos: write proposals.json (COCO results) and pictures of the best masks.

    A photo that cannot be read is reported and left out; the exit status is then 1. A run that was
    stopped goes on where it was when it is started again.
    """
    with clear_errors():
        if not overlay:
            refuse_options(context, ["overlay_masks"], "with --no-overlay")
        if torch7:
            unused = ["mask_threshold", "suppression", "image_size", "tiles", "engine"]
            refuse_options(context, unused, "with --torch7")
        paths = list_images(images, complain)
        photos = photos_of(paths, annotations)
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
                image_size=image_size,
            )
            if tiles:  # `num_proposals` is of all tiles together
                find = TiledProposer(
                    find, num_proposals=num_proposals, progress=_tiles if len(photos) == 1 else iter
                )
        file = output / "proposals.json"
        outcome = write_records(
            photos,
            find,
            file,
            settings=settings_of(context, loaded, weights),
            streams=streams,
            draw=(lambda found: found.plot(overlay_masks)) if overlay else None,
            progress=progress,
            report=complain,
        )
        conclude(outcome, len(paths), file)


def _tiles(tiles: Sequence[Tile]) -> Iterable[Tile]:
    return progress(tiles, len(tiles), "tiles")
