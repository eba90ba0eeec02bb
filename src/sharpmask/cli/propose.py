"""``sharpmask propose``: object masks for photos."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

from sharpmask.cli.console import clear_errors, err
from sharpmask.cli.photos import overlay_paths, records_by, settings_of, write_records
from sharpmask.engines.load import EngineName, load_engine
from sharpmask.images import list_images
from sharpmask.inference.batch import streams_for
from sharpmask.inference.proposer import Proposer
from sharpmask.inference.tiles import TiledProposer
from sharpmask.proposals import Proposals

PROPOSALS_OF_A_TILE = 100
"""As many as of a photo; ``num_proposals`` bounds those of all tiles together."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def propose(
    context: typer.Context,
    images: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.")],
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("proposals"),
    weights: Annotated[
        str, typer.Option(help="Name, file, or Hugging Face repository.")
    ] = "sharpmask-mobilenetv2",
    num_proposals: Annotated[int, typer.Option(help="Most masks for a photo.")] = 100,
    scales: Annotated[
        str, typer.Option(help="default, zoom or zoom2: more scales for smaller objects.")
    ] = "default",
    mask_threshold: Annotated[
        float, typer.Option(help="Probability above which a pixel belongs to the object.")
    ] = 0.35,
    suppression: Annotated[
        float, typer.Option(help="Rank masks last whose IoU with a better one exceeds this.")
    ] = 0.7,
    tiles: Annotated[
        bool, typer.Option("--tiles", help="Read pictures far larger than photos in parts.")
    ] = False,
    overlay: Annotated[bool, typer.Option(help="Draw the best masks on the photo.")] = True,
    overlay_masks: Annotated[int, typer.Option(help="How many to draw.")] = 10,
    engine: Annotated[
        EngineName,
        typer.Option(help="What runs the model; auto is the fastest that is installed."),
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    torch7: Annotated[
        bool,
        typer.Option("--torch7", help="FAIR's arithmetic, lost cell and all."),
    ] = False,
) -> None:
    """Find objects in photos: writes proposals.json (COCO results) and overlay pictures.

    A photo that cannot be read is reported and passed over; the exit status is then 1.
    """
    with clear_errors():
        paths = list_images(images)
        # A picture in tiles is large, and one after the other keeps the cores busy too.
        streams = 1 if tiles else streams_for(len(paths))
        if torch7:
            from sharpmask.torch7.proposer import Torch7Proposer

            proposer: Proposer = Torch7Proposer(
                load_engine(weights, "torch", device, streams=streams),
                num_proposals=num_proposals,
                scales=scales,
            )
        else:
            proposer = Proposer(
                load_engine(weights, engine, device, streams=streams),
                num_proposals=PROPOSALS_OF_A_TILE if tiles else num_proposals,
                scales=scales,
                mask_threshold=mask_threshold,
                suppression=suppression,
            )
        propose_in: Callable[[Path], Proposals] = proposer
        if tiles:
            bar = partial(track, description="tiles", console=err, disable=not err.is_terminal)
            shown = bar if len(paths) == 1 else iter
            propose_in = TiledProposer(proposer, num_proposals=num_proposals, progress=shown)
        settings = settings_of(context, proposer.engine, weights)
        pictures = overlay_paths(paths, output) if overlay else {}

        found_in = records_by(propose_in, lambda found: found.plot(overlay_masks), pictures)
        write_records(
            paths, found_in, output / "proposals.json", settings=settings, streams=streams
        )
