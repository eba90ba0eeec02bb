"""``sharpmask train pyramid``: SharpMask on a feature pyramid."""

from typing import Annotated

import typer

from sharpmask.cli.console import clear_errors
from sharpmask.cli.train_options import (
    Device,
    Devices,
    Images,
    Output,
    Precision,
    Set,
    Train,
    Workers,
    choose_devices,
    run_training,
)
from sharpmask.training.pyramid_stage import pyramid as pyramid_recipe
from sharpmask.training.pyramid_stage import train_pyramid
from sharpmask.training.recipes import change


def pyramid(
    train: Train,
    images: Images,
    output: Output,
    init: Annotated[
        str | None,
        typer.Option(
            help="Weights that the YOLOX-Nano trunk starts from: a file or Hugging Face "
            "repository. Default: random ones, which take far longer."
        ),
    ] = None,
    share: Annotated[
        list[str] | None,
        typer.Option(
            help="SOURCE=SHARE: share of the learning (0 to 1) that photos of this source get. A "
            "photo's source is the 'source' of its image entry. May be given several times."
        ),
    ] = None,
    keep_source: Annotated[
        list[str] | None,
        typer.Option(help="Leave out the photos of this source; may be given several times."),
    ] = None,
    keep_photos: Annotated[
        int,
        typer.Option(
            min=0,
            help="Number of photos of the other sources to leave out too, for measuring later; "
            "kept_back.json names them.",
        ),
    ] = 0,
    settings: Set = None,
    device: Device = "auto",
    devices: Devices = 1,
    precision: Precision = "32-true",
    workers: Workers = 1,
) -> None:
    """A model of the default model's kind, in one stage. It measures nothing on the way."""
    with clear_errors():
        chosen = change(pyramid_recipe(), settings or [])
        shares = parse_shares(share or [])
        fabric = choose_devices(device, devices, precision)
        run_training(
            train_pyramid, recipe=chosen, fabric=fabric, output=output, train=train, images=images,
            init=init, shares=shares, keep_sources=keep_source or (), keep_photos=keep_photos,
            workers=workers,
        )  # fmt: skip


def parse_shares(texts: list[str]) -> dict[str, float]:
    """Shares by source.

    Raises:
        ValueError: A text is not ``source=share`` with a share from 0 to 1.
    """
    shares = {}
    for text in texts:
        source, equals, share = text.rpartition("=")
        try:
            value = float(share)
        except ValueError:
            value = -1.0
        if not equals or not 0 <= value <= 1:
            raise ValueError(f"--share {text}: expected source=share, a share from 0 to 1")
        shares[source] = value
    return shares
